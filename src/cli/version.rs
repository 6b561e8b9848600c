//! `usher --version`: the version, and what the binary was built from.

use std::sync::LazyLock;

/// The commit; `None` in a debug build, and in one of sources that name no commit.
const COMMIT: Option<&str> = option_env!("USHER_COMMIT");

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The text of `-V`, without the name of the program: one line.
pub(super) static SHORT: LazyLock<String> = LazyLock::new(|| match COMMIT {
    Some(commit) => format!("{VERSION} ({})", abbreviated(commit)),
    None => VERSION.to_owned(),
});

/// The text of `--version`, without the name of the program.
pub(super) static LONG: LazyLock<String> = LazyLock::new(|| {
    let features = option_env!("USHER_FEATURES")
        .map_or("none".to_owned(), |features| features.split(',').collect::<Vec<_>>().join(", "));
    let linking = if cfg!(target_feature = "crt-static") { "static" } else { "dynamic" };
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    let commit = match COMMIT {
        Some(commit) => commit,
        None if cfg!(debug_assertions) => "not recorded in a debug build",
        None => "unknown",
    };
    [
        VERSION,
        &format!("commit:   {commit}"),
        &format!("features: {features}"),
        &format!("target:   {}, {linking}", option_env!("USHER_TARGET").unwrap_or("unknown")),
        &format!("build:    {profile}, {}", option_env!("USHER_RUSTC").unwrap_or("unknown")),
    ]
    .join("\n")
});

/// Returns the first 12 digits of a commit, with its mark if files were changed.
fn abbreviated(commit: &str) -> String {
    let (digits, mark) = match commit.strip_suffix("-dirty") {
        Some(digits) => (digits, "-dirty"),
        None => (commit, ""),
    };
    format!("{}{mark}", digits.chars().take(12).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_commit_becomes_short_and_keeps_its_mark() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(abbreviated(commit), "0123456789ab");
        assert_eq!(abbreviated(&format!("{commit}-dirty")), "0123456789ab-dirty");
        assert_eq!(abbreviated("0123"), "0123");
    }

    #[test]
    fn the_long_form_names_each_part_once() {
        let text = LONG.as_str();
        assert!(text.starts_with(&format!("{VERSION}\n")), "{text}");
        for name in ["commit:   ", "features: ", "target:   ", "build:    "] {
            assert_eq!(text.matches(name).count(), 1, "{text}");
        }
        assert!(!SHORT.contains('\n'));
    }
}
