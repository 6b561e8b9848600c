//! Modules that every other module may use, and that use no other module.

pub mod breaker;
pub mod clock;
pub mod input;
pub mod lock;
pub mod memory;
pub mod rate;
pub mod repeats;
pub mod signal;
pub mod strict_json;
pub mod terminal;
pub mod text;
