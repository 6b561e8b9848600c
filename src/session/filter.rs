//! Which sessions somebody asks for. Nodes ask each other in these words.

use serde::{Deserialize, Serialize};

use super::registry::SessionHandle;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionFilter {
    /// How many are listed at most.
    pub limit: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// By its path in the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// By its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
}

impl SessionFilter {
    pub fn holds(&self, handle: &SessionHandle) -> bool {
        let is_user = self.user.as_ref().is_none_or(|user| handle.user.as_deref() == Some(user));
        let is_method = self
            .method
            .as_ref()
            .is_none_or(|method| handle.method.is_some_and(|one| one.name() == method));
        is_user && is_method && self.route.as_ref().is_none_or(|route| *handle.route == **route)
    }
}
