//! The text of a configuration, and fingerprints of the files that it names.
//!
//! The comparison of two configurations shows what a reload changes. The comparison with the disk
//! shows whether a file has changed since it was read.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};

/// The most bytes of a file that are compared. Files of a configuration are shorter.
const LONGEST: u64 = 4 << 20;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConfigText {
    tables: toml::Table,
    source: String,
    /// The fingerprint of the whole text.
    text: Fingerprint,
    files: BTreeMap<PathBuf, Fingerprint>,
}

/// A hash of a file's bytes; `None` if it cannot be read.
type Fingerprint = Option<Vec<u8>>;

/// Files with their content.
pub type Fingerprints = BTreeMap<PathBuf, Fingerprint>;

impl ConfigText {
    pub fn new(text: &str, files: impl IntoIterator<Item = PathBuf>) -> Self {
        let files = files.into_iter().map(|path| (path.clone(), fingerprint(&path))).collect();
        let fingerprint = Some(digest(&SHA256, text.as_bytes()).as_ref().to_vec());
        Self {
            tables: text.parse().unwrap_or_default(),
            source: text.to_owned(),
            text: fingerprint,
            files,
        }
    }

    /// Returns the text of the file. It has no secrets.
    pub fn text(&self) -> &str {
        &self.source
    }

    /// Returns the top-level keys and the files that differ.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let keys: BTreeSet<_> = self.tables.keys().chain(other.tables.keys()).collect();
        let keys =
            keys.into_iter().filter(|key| self.tables.get(*key) != other.tables.get(*key)).cloned();
        let both = self
            .files
            .iter()
            .filter_map(|(path, fingerprint)| Some((path, fingerprint, other.files.get(path)?)));
        let files = both
            .filter(|(_, ours, theirs)| ours != theirs)
            .map(|(path, ..)| path.display().to_string());
        keys.chain(files).collect()
    }

    /// Returns the files as they were when they were read, including the configuration file.
    pub fn as_read(&self, source: &Path) -> Fingerprints {
        let mut files = self.files.clone();
        files.insert(source.to_owned(), self.text.clone());
        files
    }

    /// Returns true if every file that is also in `seen` has the same content there.
    pub fn was_read_from(&self, seen: &Fingerprints, source: &Path) -> bool {
        self.as_read(source)
            .iter()
            .all(|(path, content)| seen.get(path).is_none_or(|seen| seen == content))
    }

    /// Returns the same files as they are on disk now, including the configuration file.
    pub fn on_disk(&self, source: &Path) -> Fingerprints {
        let paths = self.files.keys().map(PathBuf::as_path).chain([source]);
        paths.map(|path| (path.to_owned(), fingerprint(path))).collect()
    }
}

fn fingerprint(path: &Path) -> Fingerprint {
    let mut bytes = Vec::new();
    std::fs::File::open(path).ok()?.take(LONGEST).read_to_end(&mut bytes).ok()?;
    Some(digest(&SHA256, &bytes).as_ref().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_named() {
        let path = std::env::temp_dir().join(format!("usher-written-{}", std::process::id()));
        std::fs::write(&path, "one").unwrap();
        let before = ConfigText::new(
            "threads = 1\n[[route]]\npath = '/a'\n[limits]\nconnections = 1",
            [path.clone()],
        );
        std::fs::write(&path, "two").unwrap();
        let after = ConfigText::new(
            "threads = 1 # as before\n[[route]]\npath = '/b'\n[drain]\nwindow = '1s'",
            [path.clone()],
        );
        std::fs::remove_file(&path).unwrap();
        assert_eq!(
            before.differences(&after),
            ["drain", "limits", "route", &*path.display().to_string()]
        );
        assert_eq!(before.differences(&before.clone()), Vec::<String>::new());
    }
}
