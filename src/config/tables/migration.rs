//! `[migration]`.

use crate::config::declare::table;
use crate::config::key_type::EndpointPath;

table! {
    /// The endpoint where clients ask which method to use.
    pub struct MigrationTable: [migration] {
        /// The path of the endpoint.
        config_path: EndpointPath, default "/websocket/config",
            because "next to the ticket endpoint",
            change_when "the application uses this path";
    }
}
