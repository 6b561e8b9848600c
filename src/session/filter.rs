//! The filter of a request for sessions. Nodes send it to each other.

use serde::{Deserialize, Serialize};

use super::registry::SessionHandle;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionFilter {
    /// The most sessions that are listed.
    pub limit: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The route's path in the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// The method's name.
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
        is_user
            && is_method
            && self.route.as_ref().is_none_or(|route| *handle.route.name == **route)
    }
}
