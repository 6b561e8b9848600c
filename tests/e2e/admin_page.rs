//! The admin page as an operator uses it, in real browsers.

use crate::demo::browse;

#[test]
fn an_operator_logs_in_sees_figures_and_revokes() {
    browse("admin.mjs");
}

#[test]
fn firefox_shows_the_admin_page() {
    browse("admin-firefox.mjs");
}
