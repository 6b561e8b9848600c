//! What a configuration was read from: its tables as they stand in the file, and the files that it names.
//!
//! Two of these tell what a reload brings, and one alone whether anything has moved on disk since.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};

/// More of a file is not looked at; none that is read is as long.
const LONGEST: u64 = 4 << 20;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Written {
    tables: toml::Table,
    /// Of the whole text.
    text: Fingerprint,
    files: BTreeMap<PathBuf, Fingerprint>,
}

/// Of a file's bytes; `None`: it cannot be read.
type Fingerprint = Option<Vec<u8>>;

impl Written {
    pub fn new(text: &str, files: impl IntoIterator<Item = PathBuf>) -> Self {
        let files = files.into_iter().map(|path| (path.clone(), fingerprint(&path))).collect();
        Self { tables: text.parse().unwrap_or_default(), text: Some(digest(&SHA256, text.as_bytes()).as_ref().to_vec()), files }
    }

    /// Top-level keys and files that are not the same in both.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let keys: BTreeSet<_> = self.tables.keys().chain(other.tables.keys()).collect();
        let keys = keys.into_iter().filter(|key| self.tables.get(*key) != other.tables.get(*key)).cloned();
        let both = self.files.iter().filter_map(|(path, fingerprint)| Some((path, fingerprint, other.files.get(path)?)));
        let files = both.filter(|(_, ours, theirs)| ours != theirs).map(|(path, ..)| path.display().to_string());
        keys.chain(files).collect()
    }

    /// The files as they were when they were read, the configuration's own among them.
    pub fn as_read(&self, source: &Path) -> BTreeMap<PathBuf, Fingerprint> {
        let mut files = self.files.clone();
        files.insert(source.to_owned(), self.text.clone());
        files
    }

    /// The same files as they are now, and the configuration's own.
    pub fn on_disk(&self, source: &Path) -> BTreeMap<PathBuf, Fingerprint> {
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
        let before = Written::new("threads = 1\n[[route]]\npath = '/a'\n[limits]\nconnections = 1", [path.clone()]);
        std::fs::write(&path, "two").unwrap();
        let after = Written::new("threads = 1 # as before\n[[route]]\npath = '/b'\n[drain]\nwindow = '1s'", [path.clone()]);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(before.differences(&after), ["drain", "limits", "route", &*path.display().to_string()]);
        assert_eq!(before.differences(&before.clone()), Vec::<String>::new());
    }
}
