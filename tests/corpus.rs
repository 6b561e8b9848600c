//! Runs the fuzz targets on the files of `fuzz/corpus`, so that a fault that was found once stays
//! mended.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

#[path = "../fuzz/targets/mod.rs"]
mod targets;

use std::path::Path;

#[test]
fn each_target_holds_for_its_corpus() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let mut findings = Vec::new();
    for (name, target) in targets::ALL {
        let files = std::fs::read_dir(corpus.join(name)).unwrap();
        let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        files.sort();
        assert!(files.len() >= 5, "{name} has no corpus");
        for file in files {
            let bytes = std::fs::read(&file).unwrap();
            if std::panic::catch_unwind(|| target(&bytes)).is_err() {
                findings.push(format!("{name}/{}", file.file_name().unwrap().display()));
            }
        }
    }
    // Each target that failed has printed its panic above.
    assert_eq!(findings, [""; 0]);
}
