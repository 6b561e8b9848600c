//! The order of the modules: each imports only from the floors below its own.
//!
//! The lists here are the rules. `docs/architecture.md` repeats the floors for readers, and a test
//! compares it.

#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test reads the project's own files"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The modules from the lowest floor up. Modules of one floor do not import each other.
const FLOORS: &[&[&str]] = &[
    &["base", "ws"],
    &["model"],
    &["rejection"],
    &["telemetry"],
    &["config"],
    &["net"],
    &["store", "traces"],
    &["acme", "auth"],
    &["upstream"],
    &["session"],
    &["fleet"],
    &["migration"],
    &["edge"],
    &["http"],
    &["explain", "listener"],
    &["admin", "takeover"],
    &["telemetry_setup"],
    &["app", "exit"],
    &["admin_client"],
    &["bench", "demo"],
    &["cli"],
];

/// Modules whose files form no import cycle.
const WITHOUT_CYCLES: &[&str] = &["http", "model", "net", "rejection"];

/// Outside crates whose types are in the signatures of most modules.
const VOCABULARY: &[&str] = &[
    "anyhow",
    "arc_swap",
    "aws_lc_rs",
    "base64",
    "bytes",
    "http",
    "serde",
    "serde_json",
    "thiserror",
    "tokio",
    "tracing",
];

/// Every other outside crate, and the places where it is used, as path prefixes under `src`.
const CRATES: &[(&str, &[&str])] = &[
    ("clap", &["cli/", "bench/", "demo/", "config/tables/log.rs", "admin_client.rs"]),
    ("clap_complete", &["cli/completions.rs"]),
    ("clap_mangen", &["cli/man.rs"]),
    ("fastwebsockets", &["demo/"]),
    ("flate2", &["ws/deflate.rs"]),
    ("h2", &["net/http2/", "http/http2/"]),
    ("hdrhistogram", &["bench/"]),
    ("http_body_util", &["admin/", "demo/", "http/", "net/fetch/", "upstream/"]),
    ("httparse", &["net/http1/head.rs"]),
    ("httpdate", &["base/clock.rs", "traces/export.rs"]),
    ("hyper", &["admin/", "demo/", "http/", "net/", "traces/", "upstream/"]),
    ("hyper_util", &["admin/mod.rs", "demo/server.rs", "http/serve.rs", "net/fetch/"]),
    ("idna_adapter", &[]),
    ("ipnet", &["config/"]),
    ("jsonwebtoken", &["auth/jwt"]),
    ("libc", &["admin/reserve.rs", "base/memory.rs"]),
    ("memchr", &["net/http1/head.rs"]),
    ("metrics", &["telemetry/exposition.rs"]),
    ("metrics_exporter_prometheus", &["telemetry/exposition.rs"]),
    ("prost", &["traces/export.rs", "traces/proto.rs"]),
    ("rcgen", &["net/tls/acme.rs", "net/tls/self_signed.rs"]),
    ("redis", &["store/redis/"]),
    (
        "rustix",
        &[
            "acme/state.rs",
            "config/tables/top.rs",
            "edge/",
            "net/handover.rs",
            "telemetry/process.rs",
            "upstream/keyring/",
        ],
    ),
    (
        "rustls",
        &[
            "bench/",
            "cli/",
            "config/",
            "edge/",
            "explain/",
            "http/",
            "listener/",
            "model/",
            "net/",
            "session/",
            "store/redis/",
            "upstream/",
        ],
    ),
    ("rustls_native_certs", &["net/tls/trust.rs"]),
    (
        "socket2",
        &[
            "listener/queue.rs",
            "net/",
            "store/redis/",
            "takeover/predecessor.rs",
            "upstream/connect.rs",
        ],
    ),
    ("strsim", &["config/diagnostic.rs"]),
    ("subtle", &["model/secret.rs"]),
    ("time", &["base/clock.rs", "net/tls/"]),
    ("tokio_rustls", &["bench/target.rs", "net/", "store/redis/", "upstream/connect.rs"]),
    ("toml", &["config/", "demo/"]),
    ("tracing_subscriber", &["telemetry/", "config/tables/log.rs"]),
    ("x509_parser", &["auth/certificate.rs", "explain/listener.rs", "net/tls/"]),
    (
        "zeroize",
        &[
            "auth/verifier/source.rs",
            "config/tables/verifier.rs",
            "model/secret.rs",
            "upstream/keyring/",
        ],
    ),
];

/// A source file without its comments and tests.
struct Source {
    /// The path under `src`, with `/`.
    path: String,
    lines: Vec<String>,
}

#[test]
fn each_module_imports_from_the_floors_below_it() {
    let faults = upward_imports(&sources());
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn the_files_of_a_module_form_no_cycle() {
    let sources = sources();
    for module in WITHOUT_CYCLES {
        let cycles = cycles(module, &sources);
        assert!(cycles.is_empty(), "\n{}\n", cycles.join("\n"));
    }
}

#[test]
fn each_outside_crate_is_used_in_its_places() {
    let faults = strayed_crates(&sources());
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn each_dependency_has_its_places() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let tables = manifest.split_once("\n[dependencies]\n").unwrap().1;
    let own = tables.split("\n[").next().unwrap();
    let dependencies: BTreeSet<String> = own
        .lines()
        .filter_map(|line| line.split_once(" = "))
        .map(|(name, _)| name.replace('-', "_"))
        .collect();
    let listed = CRATES.iter().map(|(name, _)| *name).chain(VOCABULARY.iter().copied());
    assert_eq!(listed.map(str::to_owned).collect::<BTreeSet<_>>(), dependencies);
}

#[test]
fn the_page_shows_the_same_floors() {
    let page = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let floors: Vec<String> = FLOORS.iter().map(|floor| floor.join(", ")).collect();
    let expected = format!("```text\n{}\n```", floors.join("\n"));
    assert!(page.contains(&expected), "docs/architecture.md lacks the floors:\n{expected}");
}

#[test]
fn an_upward_import_is_found_and_named() {
    let faults = upward_imports(&[source(
        "config/value.rs",
        "use crate::base::rate::Rate;\n/// Of `crate::http`.\n\
         use crate::{auth::grant::Grant, model};\n\
         #[cfg(test)]\nmod tests {\n    use crate::app;\n}\n",
    )]);
    assert_eq!(
        faults,
        ["src/config/value.rs:3: `config` imports `auth`, which stands above it: move the item \
             down, or the user of it up"]
    );
    let sideways = upward_imports(&[source("bench/mod.rs", "\n    crate::demo::run();\n")]);
    assert_eq!(
        sideways,
        ["src/bench/mod.rs:2: `bench` imports `demo`, which stands beside it: move the item \
             down, or the user of it up"]
    );
    let unknown = upward_imports(&[source("cellar/mod.rs", "use crate::base;\n")]);
    assert_eq!(unknown, ["src/cellar/mod.rs: the module `cellar` has no floor"]);
}

#[test]
fn a_cycle_of_files_is_found_and_named() {
    let files = [
        source("http/head.rs", "use super::serve::Client;\n"),
        source("http/serve.rs", "use crate::http::guard;\n"),
        source("http/guard.rs", "use super::head;\n"),
        source("http/mod.rs", "pub mod head;\n"),
        source("http/route/spelling.rs", "use super::super::head;\n"),
    ];
    assert_eq!(cycles("http", &files), ["http: guard -> head -> serve -> guard"]);
}

#[test]
fn a_strayed_crate_is_found_and_named() {
    let faults = strayed_crates(&[
        source("store/redis/mod.rs", "use redis::Client;\n"),
        source("fleet/mod.rs", "use crate::base;\nuse redis::Client;\n"),
        source("store/mod.rs", "mod redis;\nuse redis::Reader;\n"),
    ]);
    assert_eq!(
        faults,
        ["src/fleet/mod.rs:2: the crate `redis` is used in store/redis/ alone: put what you \
             need there"]
    );
}

fn upward_imports(sources: &[Source]) -> Vec<String> {
    let floor_of = |module: &str| FLOORS.iter().position(|floor| floor.contains(&module));
    let mut faults = Vec::new();
    for source in sources {
        let module = source.module();
        let Some(own) = floor_of(module) else {
            faults.push(format!("src/{}: the module `{module}` has no floor", source.path));
            continue;
        };
        for (line, imported) in source.imports() {
            let place = match floor_of(&imported) {
                _ if imported == module => continue,
                Some(floor) if floor < own => continue,
                Some(floor) if floor == own => "beside it",
                Some(_) => "above it",
                // An item of `lib.rs`, or a macro.
                None => continue,
            };
            faults.push(format!(
                "src/{}:{line}: `{module}` imports `{imported}`, which stands {place}: \
                 move the item down, or the user of it up",
                source.path
            ));
        }
    }
    faults
}

fn cycles(module: &str, sources: &[Source]) -> Vec<String> {
    let inside =
        |source: &&Source| source.module() == module && source.path != format!("{module}/mod.rs");
    let files: BTreeMap<String, &Source> =
        sources.iter().filter(inside).map(|source| (source.file(), source)).collect();
    let graph: BTreeMap<&String, BTreeSet<String>> = files
        .iter()
        .map(|(name, source)| {
            let mut imported = source.siblings(module);
            imported.retain(|other| other != name && files.contains_key(other));
            (name, imported)
        })
        .collect();
    let mut found = BTreeSet::new();
    for start in graph.keys() {
        let mut path = Vec::new();
        walk(start, &graph, &mut path, &mut found);
    }
    found.into_iter().map(|cycle| format!("{module}: {cycle}")).collect()
}

/// Follows the imports of `file`. A cycle starts at the first of its names in the alphabet.
fn walk(
    file: &str,
    graph: &BTreeMap<&String, BTreeSet<String>>,
    path: &mut Vec<String>,
    found: &mut BTreeSet<String>,
) {
    if let Some(begin) = path.iter().position(|one| one == file) {
        let mut cycle = path[begin..].to_vec();
        let first = (0..cycle.len()).min_by_key(|index| &cycle[*index]).unwrap();
        cycle.rotate_left(first);
        cycle.push(cycle[0].clone());
        found.insert(cycle.join(" -> "));
        return;
    }
    path.push(file.to_owned());
    for next in graph.get(&file.to_owned()).into_iter().flatten() {
        walk(next, graph, path, found);
    }
    path.pop();
}

fn strayed_crates(sources: &[Source]) -> Vec<String> {
    let mut faults = Vec::new();
    for source in sources {
        for (name, places) in CRATES {
            if places.iter().any(|place| source.path.starts_with(place)) || source.has_own(name) {
                continue;
            }
            for (index, line) in source.lines.iter().enumerate() {
                if uses_crate(line, name) {
                    faults.push(format!(
                        "src/{}:{}: the crate `{name}` is used in {} alone: put what you need \
                         there",
                        source.path,
                        index + 1,
                        places.join(", ")
                    ));
                }
            }
        }
    }
    faults
}

/// Returns true if a path in the line begins with the name of the crate.
fn uses_crate(line: &str, name: &str) -> bool {
    line.match_indices(&format!("{name}::")).any(|(at, _)| {
        let before = &line[..at];
        !before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':')
            && (before.trim_start().starts_with("use ")
                || before.trim().is_empty()
                || !before.contains("use "))
    }) && !line.contains(&format!("crate::{name}::"))
}

impl Source {
    fn module(&self) -> &str {
        self.path.split(['/', '.']).next().unwrap_or_default()
    }

    /// Returns the name of the file or folder inside its module: `http/route/spelling.rs` is
    /// `route`.
    fn file(&self) -> String {
        let rest = self.path.split_once('/').map_or(self.path.as_str(), |(_, rest)| rest);
        rest.split(['/', '.']).next().unwrap_or_default().to_owned()
    }

    /// Returns true if `name` is a module of the project at this place, such as `store::redis`.
    fn has_own(&self, name: &str) -> bool {
        let is_own = |line: &String| {
            let names = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            let is_import = line.contains("mod ") || line.contains("use crate::");
            is_import && names.into_iter().any(|one| one == name)
        };
        self.lines.iter().any(is_own)
    }

    /// Returns the modules that follow `crate::`, with their lines.
    fn imports(&self) -> Vec<(usize, String)> {
        let mut imports = Vec::new();
        for (line, path) in self.paths("crate::") {
            imports.extend(first_names(&path).into_iter().map(|name| (line, name)));
        }
        imports
    }

    /// Returns the files of its own module that it imports.
    fn siblings(&self, module: &str) -> BTreeSet<String> {
        let mut siblings: BTreeSet<String> = BTreeSet::new();
        for (_, path) in self.paths(&format!("crate::{module}::")) {
            siblings.extend(first_names(&path));
        }
        let depth = self.path.matches('/').count();
        for (_, path) in self.paths(&"super::".repeat(depth)) {
            siblings.extend(first_names(&path));
        }
        siblings
    }

    /// Returns the paths that follow `prefix`, up to the end of the statement.
    fn paths(&self, prefix: &str) -> Vec<(usize, String)> {
        let text = self.lines.join("\n");
        let mut paths = Vec::new();
        for (at, _) in text.match_indices(prefix) {
            let before = text[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let rest = &text[at + prefix.len()..];
            let line = text[..at].matches('\n').count() + 1;
            paths.push((line, rest[..rest.find(';').unwrap_or(rest.len())].to_owned()));
        }
        paths
    }
}

/// Returns the first names in a path: `a` for `a::b`, and `a` and `c` for `{a::b, c::{d, e}}`.
fn first_names(path: &str) -> Vec<String> {
    let name = |text: &str| -> String {
        text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let Some(group) = path.strip_prefix('{') else { return vec![name(path)] };
    let (mut names, mut depth, mut begins) = (Vec::new(), 0, true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => begins = true,
            c if begins && !c.is_whitespace() => {
                names.push(name(&group[at..]));
                begins = false;
            }
            _ => {}
        }
    }
    names
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn source(path: &str, text: &str) -> Source {
    let mut lines: Vec<String> = Vec::new();
    let mut is_test = false;
    for line in text.lines() {
        // The tests are at the end of a file.
        is_test |= line.starts_with("#[cfg(test)]") && !text_after_is_a_file(text, line);
        let code = line.split("//").next().unwrap_or_default();
        lines.push(if is_test { String::new() } else { code.to_owned() });
    }
    Source { path: path.to_owned(), lines }
}

/// Returns true for `#[cfg(test)] mod tests;`, which names a file: code may follow it.
fn text_after_is_a_file(text: &str, line: &str) -> bool {
    let at = line.as_ptr() as usize - text.as_ptr() as usize + line.len();
    let next = text[at..].lines().find(|line| !line.is_empty() && !line.starts_with("#["));
    next.is_some_and(|next| next.ends_with(';'))
}

/// Returns every file of `src` except tests.
fn sources() -> Vec<Source> {
    let (mut sources, mut folders) = (Vec::new(), vec![root().join("src")]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let relative =
                path.strip_prefix(root().join("src")).unwrap().to_str().unwrap().to_owned();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() {
                folders.push(path);
            } else if is_code(&relative, name) {
                sources.push(source(&relative, &fs::read_to_string(path).unwrap()));
            }
        }
    }
    assert!(sources.len() > 100, "too few sources were found");
    sources
}

fn is_code(relative: &str, name: &str) -> bool {
    let is_test = ["tests", "attacks", "vectors", "test_ends", "contract"]
        .iter()
        .any(|part| name.contains(part));
    name.ends_with(".rs")
        && !is_test
        && !relative.contains("/tests/")
        && !["lib.rs", "main.rs"].contains(&relative)
}
