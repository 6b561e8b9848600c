//! Checks the documents against the program: configurations, commands and links.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::first_steps::Folder;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The tables that complete a part of a configuration. A missing table is added. In a table with
/// the line `# ...`, the missing keys are added.
const FRAME: [(&str, &[&str]); 4] = [
    ("[[listener]]", &["address = \"127.0.0.1:8080\"", "plain = true"]),
    (
        "[[issuer]]",
        &[
            "name = \"main\"",
            "issuer = \"https://id.example.com\"",
            "audience = [\"chat\"]",
            "algorithms = [\"HS256\"]",
            "secret_env = \"USHER_JWT_SECRET\"",
        ],
    ),
    ("[[upstream]]", &["name = \"chat\"", "servers = [\"http://127.0.0.1:9000\"]"]),
    ("[[route]]", &["path = \"/framed\"", "upstream = \"chat\"", "auth = [\"header\"]"]),
];

/// A page, by its path from the root of the repository.
pub struct Page {
    name: String,
    text: String,
}

/// The text between two fences, and the line of the first.
pub struct Block {
    line: usize,
    pub text: String,
}

impl Page {
    fn all() -> Vec<Self> {
        let mut folders = vec![PathBuf::from(ROOT)];
        let mut pages = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                if path.is_dir()
                    && !name.starts_with('.')
                    && !["node_modules", "target"].contains(&&*name)
                {
                    folders.push(path);
                } else if name.ends_with(".md") {
                    let text = fs::read_to_string(&path).unwrap();
                    pages.push(Self {
                        name: path.strip_prefix(ROOT).unwrap().display().to_string(),
                        text,
                    });
                }
            }
        }
        pages.sort_by(|a, b| a.name.cmp(&b.name));
        pages
    }

    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            text: fs::read_to_string(Path::new(ROOT).join(name)).unwrap(),
        }
    }

    pub fn blocks(&self, language: &str) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut lines = self.text.lines().enumerate();
        while let Some((number, line)) = lines.next() {
            let Some(written) = line.trim_start().strip_prefix("```") else { continue };
            let inside: Vec<_> = lines
                .by_ref()
                .map(|(_, line)| line)
                .take_while(|line| line.trim_start() != "```")
                .collect();
            if written == language {
                blocks.push(Block { line: number + 1, text: inside.join("\n") + "\n" });
            }
        }
        blocks
    }

    /// Returns the page without fenced blocks and code spans.
    fn prose(&self) -> String {
        let mut is_code = false;
        let lines = self.text.lines().filter(|line| {
            let is_fence = line.trim_start().starts_with("```");
            is_code ^= is_fence;
            !is_code && !is_fence
        });
        let text = lines.collect::<Vec<_>>().join("\n");
        text.split('`').step_by(2).collect()
    }

    /// Returns the anchors of its headings, as GitHub makes them.
    fn anchors(&self) -> Vec<String> {
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let mut is_code = false;
        let mut anchors = Vec::new();
        for line in self.text.lines() {
            is_code ^= line.trim_start().starts_with("```");
            let heading = line.trim_start_matches('#');
            if is_code || heading == line || !heading.starts_with(' ') {
                continue;
            }
            let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            let slug: String =
                kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect();
            let count = seen.entry(slug.clone()).or_insert(0);
            anchors.push(if *count == 0 { slug } else { format!("{slug}-{count}") });
            *count += 1;
        }
        anchors
    }

    /// Returns the links in its prose, without those to other sites.
    fn links(&self) -> Vec<String> {
        let prose = self.prose();
        let targets = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        targets
            .filter(|target| !target.contains("://") && !target.starts_with("mailto:"))
            .map(str::to_owned)
            .collect()
    }
}

/// Returns the part as a complete configuration.
fn completed(part: &str) -> String {
    let mut text = part.to_owned();
    for (table, keys) in FRAME {
        let Some(at) = text.find(&format!("{table}\n")) else {
            // Adds each upstream that a route names.
            let mut names: Vec<_> = values(part, "upstream").collect();
            names.sort_unstable();
            names.dedup();
            if table != "[[upstream]]" || names.is_empty() {
                names = vec!["chat"];
            }
            for name in names {
                text += &format!(
                    "\n{table}\n{}\n",
                    keys.join("\n").replace("name = \"chat\"", &format!("name = \"{name}\""))
                );
            }
            continue;
        };
        let start = at + table.len() + 1;
        let end = text[start..].find("\n[").map_or(text.len(), |end| start + end);
        let written = text[start..end].to_owned();
        if written.lines().any(|line| line == "# ...") {
            let is_written = |key: &str| {
                written.lines().any(|line| line.split(" =").next() == key.split(" =").next())
            };
            let missing: Vec<_> = keys.iter().copied().filter(|key| !is_written(key)).collect();
            text.insert_str(start, &(missing.join("\n") + "\n"));
        }
    }
    text
}

/// Returns the string values of all keys that end so.
fn values<'a>(text: &'a str, ending: &'a str) -> impl Iterator<Item = &'a str> {
    text.lines().filter_map(move |line| {
        let (key, value) = line.split_once('=')?;
        key.trim_end().ends_with(ending).then(|| value.split('"').nth(1))?
    })
}

/// Returns the errors and warnings of `usher check` for the configurations of a page. Those of
/// README are complete as they are.
fn configuration_faults(page: &Page) -> Vec<String> {
    let folder = Folder::new();
    let secret = "0123456789abcdef".repeat(4);
    let mut faults = Vec::new();
    for Block { line, text } in page.blocks("toml") {
        let whole = if page.name == "README.md" { text } else { completed(&text) };
        folder.write("usher.toml", &whole);
        for file in values(&whole, "_file").filter(|file| !file.contains('/')) {
            folder.write(file, &secret);
        }
        // A configuration with `[bypass]` always has a warning.
        let terms = if whole.contains("[bypass]") { "--allow-bypass" } else { "--strict" };
        let mut command =
            folder.command(env!("CARGO_BIN_EXE_usher"), &["check", "--offline", terms]);
        let output =
            command.envs(values(&whole, "_env").map(|name| (name, &secret))).output().unwrap();
        if !output.status.success() {
            faults.push(format!(
                "{}:{line}: {}\n{whole}",
                page.name,
                String::from_utf8_lossy(&output.stderr)
            ));
        }
    }
    faults
}

/// Returns the links that lead to no file, or to no heading of the file.
fn link_faults(page: &Page) -> Vec<String> {
    let folder = Path::new(ROOT).join(&page.name).parent().unwrap().to_owned();
    let mut faults = Vec::new();
    for link in page.links() {
        let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
        let path =
            if file.is_empty() { Path::new(ROOT).join(&page.name) } else { folder.join(file) };
        let is_there = match anchor {
            "" => path.exists(),
            _ => fs::read_to_string(&path).is_ok_and(|text| {
                let target = Page {
                    name: String::new(),
                    text: if file.is_empty() { page.text.clone() } else { text },
                };
                target.anchors().iter().any(|one| one == anchor)
            }),
        };
        if !is_there {
            faults.push(format!("{}: {link}", page.name));
        }
    }
    faults
}

#[test]
fn every_configuration_of_the_documents_is_valid() {
    let pages = Page::all();
    let count: usize = pages.iter().map(|page| page.blocks("toml").len()).sum();
    assert!(count >= 15, "{count}");
    let faults: Vec<_> = pages.iter().flat_map(configuration_faults).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_configuration_that_is_broken_in_a_document_is_found() {
    let readme = Page::named("README.md");
    let broken = |name: &str, from: &str, to: &str| {
        assert!(readme.text.contains(from), "{from}");
        configuration_faults(&Page { name: name.to_owned(), text: readme.text.replace(from, to) })
    };
    assert!(broken("README.md", "[[route]]", "[[route]]").is_empty());
    for (from, to, part) in [
        ("auth = [", "auht = [", "did you mean `auth`?"),
        ("\"HS256\"", "\"HS265\"", "did you mean `HS256`?"),
        ("audience = [\"chat\"]", "audience = [\"chat\"", "is not closed"),
        ("origins = [\"https://app.example.com\"]\n", "", "has no `origins`"),
        (
            "\n[[upstream]]\nname = \"chat\"\nservers = [\"http://127.0.0.1:9000\"]\n",
            "",
            "no upstream is named",
        ),
    ] {
        let faults = broken("README.md", from, to);
        assert!(faults.len() == 1 && faults[0].contains(part), "{part}: {faults:?}");
    }
    // In other pages, a missing table is added. A table that is there must be complete, unless it
    // has the line `# ...`.
    assert!(
        broken(
            "docs/page.md",
            "[[upstream]]\nname = \"chat\"\nservers = [\"http://127.0.0.1:9000\"]\n",
            ""
        )
        .is_empty()
    );
    assert_eq!(broken("docs/page.md", "servers = [\"http://127.0.0.1:9000\"]\n", "").len(), 1);
    assert!(
        broken("docs/page.md", "servers = [\"http://127.0.0.1:9000\"]\n", "# ...\n").is_empty()
    );
}

/// Returns true if the block is one JSON text, or one JSON text on each line.
fn is_json(text: &str) -> bool {
    let is_one = |text: &str| serde_json::from_str::<serde_json::Value>(text).is_ok();
    is_one(text) || text.lines().all(is_one)
}

/// Returns the faults that node finds in the blocks. It parses each as a module and does not run
/// it.
fn script_faults(blocks: &[Block]) -> Vec<String> {
    let folder = Folder::new();
    let mut faults = Vec::new();
    for Block { line, text } in blocks {
        folder.write("block.mjs", text);
        let output = folder.command("node", &["--check", "block.mjs"]).output().unwrap();
        if !output.status.success() {
            faults.push(format!("line {line}: {}", String::from_utf8_lossy(&output.stderr)));
        }
    }
    faults
}

#[test]
fn json_and_scripts_of_the_documents_can_be_read() {
    let (mut texts, mut count) = (0, 0);
    for page in Page::all() {
        for Block { line, text } in page.blocks("json") {
            assert!(is_json(&text), "{}:{line}", page.name);
            texts += 1;
        }
        let scripts = page.blocks("js");
        count += scripts.len();
        let faults = script_faults(&scripts);
        assert!(faults.is_empty(), "{}: {}", page.name, faults.join("\n"));
    }
    assert!(texts >= 3 && count >= 5, "{texts} in JSON, {count} scripts");
    assert!(!is_json("{\"a\":1}\n{\"b\"}\n"));
    assert_eq!(script_faults(&[Block { line: 1, text: "const a = {;\n".to_owned() }]).len(), 1);
}

#[test]
fn every_link_of_the_documents_leads_somewhere() {
    let pages = Page::all();
    let count: usize = pages.iter().map(|page| page.links().len()).sum();
    assert!(count >= 100, "{count}");
    let faults: Vec<_> = pages.iter().flat_map(link_faults).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_link_that_leads_nowhere_is_found() {
    let faults = |text: &str| {
        link_faults(&Page { name: "docs/page.md".to_owned(), text: text.to_owned() }).len()
    };
    for good in [
        "[a](logs.md)",
        "[a](../README.md#try-it)",
        "[a](https://example.com/x#y)",
        "`[a](nowhere.md)`",
        "```\n[a](b)\n```",
    ] {
        assert_eq!(faults(good), 0, "{good}");
    }
    for bad in [
        "[a](nowhere.md)",
        "[a](logs.md#nowhere)",
        "[a](#nowhere)",
        "[`a`](nowhere)",
        "[a](logs.md) [b](../nowhere)",
    ] {
        assert_eq!(faults(bad), 1, "{bad}");
    }
    let headings =
        "# One `two` (three)\n\n## one: two, three\n\n## One two three\n```sh\n# not one\n```\n";
    let page = Page { name: String::new(), text: headings.to_owned() };
    assert_eq!(page.anchors(), ["one-two-three", "one-two-three-1", "one-two-three-2"]);
}

/// README links to `docs/README.md`, and that page links to every other one. The list of the
/// runbooks links to each of them.
#[test]
fn the_way_in_links_every_page_of_the_documents() {
    let has_link = |page: &str, target: &str| {
        let links = Page::named(page).links();
        links.iter().any(|link| link.split('#').next() == Some(target))
    };
    assert!(has_link("README.md", "docs/README.md"));
    for page in Page::all() {
        let Some(name) = page.name.strip_prefix("docs/").filter(|name| *name != "README.md") else {
            continue;
        };
        let (list, target) = match name.strip_prefix("runbooks/") {
            Some(runbook) if runbook != "README.md" => ("docs/runbooks/README.md", runbook),
            _ => ("docs/README.md", name),
        };
        assert!(has_link(list, target), "{list} has no link to {target}");
    }
}

/// Returns each entry in a test column of the page that does not name a test.
fn test_column_faults(page: &Page) -> Vec<String> {
    let (mut column, mut faults) = (None, Vec::new());
    for line in page.text.lines() {
        let cells: Vec<_> = line.split(" |").map(str::trim).collect();
        if !line.starts_with('|') {
            column = None;
        } else if let Some(found) = cells.iter().position(|cell| *cell == "test") {
            column = Some(found);
        } else if let Some(cell) = column.and_then(|column| cells.get(column)) {
            let names = cell.split('`').skip(1).step_by(2).filter(|name| !is_a_test(name));
            faults.extend(names.map(|name| format!("{}: `{name}` in {line}", page.name)));
        }
    }
    faults
}

/// A test is a module of the end-to-end tests, a file or folder of `src` with tests, a fuzz target,
/// or a script that `make test` runs.
fn is_a_test(name: &str) -> bool {
    let root = Path::new(ROOT);
    let module = root.join("tests/e2e").join(name.split("::").next().unwrap_or(name));
    let fuzz_target = root.join("fuzz/corpus").join(name);
    let has_tests = |path: &Path| {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.contains("#[test]") || text.contains("#[tokio::test") || text.contains("mod tests;")
    };
    let makefile = fs::read_to_string(root.join("Makefile")).unwrap();
    let is_a_step = name.starts_with("scripts/test-")
        && makefile.lines().any(|line| line.strip_prefix('\t') == Some(name));
    let source = root.join("src").join(name);
    is_a_step
        || module.with_extension("rs").is_file()
        || fuzz_target.is_dir()
        || module.is_file()
        || has_tests(&source)
        || has_tests(&source.with_extension("rs"))
        || fs::read_dir(&source)
            .is_ok_and(|files| files.flatten().any(|file| has_tests(&file.path())))
}

#[test]
fn the_tests_that_the_pages_on_threats_name_exist() {
    let pages = Page::all().into_iter().filter(|page| page.name.starts_with("docs/threats"));
    let faults: Vec<_> = pages.flat_map(|page| test_column_faults(&page)).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    let with = |test: &str| Page {
        name: String::new(),
        text: format!("| attack | test |\n|---|---|\n| bytes | {test} |\n"),
    };
    assert!(test_column_faults(&with("`upgrade_strict`, `base/strict_json.rs`")).is_empty());
    assert_eq!(test_column_faults(&with("`upgrades_strict`, `base/no_json.rs`")).len(), 2);
}
