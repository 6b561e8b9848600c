//! The help texts: every example in them is run, from top to bottom in one folder.

use usher::cli::examples::EXAMPLES;

use crate::first_steps::{Folder, Running};
use crate::support::Echo;
use crate::support::redis::free_port;

/// Examples that this test does not run, by a part of them, and the place where they are tested.
const NOT_RUN: [(&str, &str); 5] = [
    ("usher demo", "demo.rs"),
    ("usher run", "first_steps.rs, reload.rs, takeover.rs"),
    ("bench idle", "bench.rs: `pidof` finds the processes of other tests"),
    ("--follow", "scripts/test-api.sh"),
    ("| man -l -", "scripts/test-packages.sh reads the pages"),
];

/// Folders of the user that the examples write to.
const HOME: &str = "export HOME=$PWD; mkdir -p ~/.zfunc ~/.config/fish/completions \
                    ~/.local/share/bash-completion/completions ~/.local/share/man/man1";

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_of_the_help_texts_work_from_top_to_bottom() {
    let echo = Echo::start().await;
    let [port, admin] = [free_port(), free_port()];
    let [listener, admin] = [port, admin].map(|port| format!("127.0.0.1:{port}"));
    let url = echo.url();
    let tried = tokio::task::spawn_blocking(move || {
        let folder = Folder::new();
        let (mut running, mut count) = (None, 0);
        for example in EXAMPLES {
            let line =
                example.line.replace("127.0.0.1:8080", &listener).replace("127.0.0.1:9090", &admin);
            if example.line == "usher run" {
                running = Some(Running::start(&folder));
            }
            if NOT_RUN.iter().any(|(part, _)| line.contains(part)) {
                continue;
            }
            folder.shell(&format!("{HOME}\n{line}"));
            count += 1;
            if example.line == "usher init --plain" {
                folder.replace("127.0.0.1:8080", &listener);
                folder.replace("127.0.0.1:9090", &admin);
                folder.replace("http://127.0.0.1:9000", &url);
                let text = folder.read("usher.toml");
                folder.write("usher.toml", &format!("{text}\n[audit]\nfile = \"audit.jsonl\"\n"));
            }
        }
        // The last order was to stop.
        running.unwrap().wait();
        for (file, part) in [
            ("report.json", "\"ok\":true"),
            ("last-hour.jsonl", "\"event\":\"revoked\""),
            ("usher.schema.json", "\"$schema\""),
            (".zfunc/_usher", "#compdef usher"),
            (".config/fish/completions/usher.fish", "complete -c usher"),
            (".local/share/man/man1/usher-keys-rotate.1", ".SH EXAMPLES"),
        ] {
            assert!(folder.read(file).contains(part), "{part} is not in {file}");
        }
        // A shell that has read the script completes commands.
        let said = folder.shell(
            "source .local/share/bash-completion/completions/usher\n\
             COMP_WORDS=(usher dra) COMP_CWORD=1; _usher usher dra usher; echo ${COMPREPLY[@]}",
        );
        assert_eq!(said, "drain\n");
        count
    });
    let count = tried.await.unwrap();
    assert!(count >= 30, "{count}");
}

#[test]
fn help_and_version_have_colours_on_terminals_only() {
    let folder = Folder::new();
    let help = folder.shell("usher --help");
    assert!(!help.contains('\u{1b}'), "{help:?}");
    for part in ["usher init --plain", "Exit codes:", "  78  ", "NO_COLOR"] {
        assert!(help.contains(part), "{part} is not in {help}");
    }
    let forced = folder.shell("CLICOLOR_FORCE=1 usher help keys rotate");
    assert!(forced.contains("\u{1b}[") && forced.contains("usher keys rotate"), "{forced:?}");
    let version = folder.shell("usher --version");
    assert!(version.starts_with(concat!("usher ", env!("CARGO_PKG_VERSION"), "\ncommit:")));
    assert_eq!(folder.shell("usher -V").lines().count(), 1);
}
