//! The last valid key set on disk, so that a restart does not depend on the issuer.
//!
//! There is one file for each issuer in `state_dir`, with the set as the issuer sent it and its
//! URL. A set from another URL is not used.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::base::clock::UnixMillis;

const MOST_BYTES: u64 = 1 << 20;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptKeys {
    pub issuer: String,
    /// The URL in the config, not the URL that a discovery document contains.
    pub origin: String,
    /// The time of the fetch in Unix milliseconds.
    pub fetched_at: u64,
    pub set: String,
}

impl KeptKeys {
    pub fn at(&self) -> UnixMillis {
        UnixMillis(self.fetched_at)
    }

    /// Reads the set. `None`: there is no readable set of this issuer from this URL.
    pub fn read(path: &Path, issuer: &str, origin: &str) -> Option<Self> {
        let file = fs::File::open(path).ok()?;
        let kept: Self =
            serde_json::from_reader(io::BufReader::new(io::Read::take(file, MOST_BYTES))).ok()?;
        (kept.issuer == issuer && kept.origin == origin).then_some(kept)
    }

    /// Writes the file atomically: after a power failure, either the old or the complete new file
    /// exists.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let temporary = path.with_extension(format!("{}.new", std::process::id()));
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    }
}

/// Returns the path of the file for an issuer's name. Every name gives another path in the
/// directory.
pub fn path_in(state_dir: &Path, name: &str) -> PathBuf {
    let mut file = String::new();
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => file.push(char::from(byte)),
            other => file.push_str(&format!("%{other:02x}")),
        }
    }
    state_dir.join("issuers").join(file + ".json")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_set_is_kept_for_its_issuer_at_its_address_alone() {
        let folder = std::env::temp_dir().join(format!("usher-kept-{}", std::process::id()));
        let path = path_in(&folder, "main");
        let kept = || KeptKeys {
            issuer: "https://a".into(),
            origin: "https://a/keys".into(),
            fetched_at: 7,
            set: "{}".into(),
        };
        assert!(KeptKeys::read(&path, "https://a", "https://a/keys").is_none());
        kept().write(&path).unwrap();
        kept().write(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(
            fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1,
            "no partly written file is left"
        );
        let read = KeptKeys::read(&path, "https://a", "https://a/keys").unwrap();
        assert_eq!((read.at(), read.set.as_str()), (UnixMillis(7), "{}"));
        assert!(KeptKeys::read(&path, "https://b", "https://a/keys").is_none());
        assert!(KeptKeys::read(&path, "https://a", "https://b/keys").is_none());
        fs::write(&path, "half").unwrap();
        assert!(KeptKeys::read(&path, "https://a", "https://a/keys").is_none());
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_name_cannot_leave_the_folder() {
        assert_eq!(path_in(Path::new("/s"), "../a b"), Path::new("/s/issuers/%2e%2e%2fa%20b.json"));
    }
}
