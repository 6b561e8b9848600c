//! `[migration]`.

use crate::config::declare::table;
use crate::config::key_type::EndpointPath;

table! {
    /// Where clients ask which method to use.
    pub struct MigrationTable: [migration] {
        /// The path that answers them.
        config_path: EndpointPath, default "/websocket/config",
            because "beside the ticket endpoint",
            change_when "it collides";
    }
}
