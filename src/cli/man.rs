//! `usher man`: the manual pages, one for the program and one for each command.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap_mangen::Man;

use super::help::{self, ENVIRONMENT};
use crate::cli::examples::examples_of;
use crate::exit::Exit;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Create this folder and write the page of each command into it, instead of the first page to
    /// standard output
    #[arg(value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let pages = pages()?;
    match arguments.folder {
        Some(folder) => write_all(&folder, &pages)?,
        None => {
            if let Some((_, page)) = pages.first() {
                io::stdout().write_all(page)?;
            }
        }
    }
    Ok(Exit::Ok.into())
}

fn write_all(folder: &Path, pages: &[(String, Vec<u8>)]) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot create the folder {}", folder.display()))?;
    for (name, page) in pages {
        let path = folder.join(name);
        std::fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Returns the name and the text of each page. The first one is that of the program.
fn pages() -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut command = help::command().disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    add(&command, "", &mut pages)?;
    Ok(pages)
}

fn add(command: &clap::Command, path: &str, pages: &mut Vec<(String, Vec<u8>)>) -> io::Result<()> {
    let name = command.get_display_name().unwrap_or("usher").to_owned();
    let man = Man::new(command.clone());
    // The title has no date, so that the same sources give the same page.
    let title = name.to_uppercase();
    let version = env!("CARGO_PKG_VERSION");
    let mut page = format!(".TH {title} 1 \"\" \"usher {version}\" Usher\n").into_bytes();
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.get_subcommands().next().is_some() {
        man.render_subcommands_section(&mut page)?;
    }
    page.extend(closing_sections(path).into_bytes());
    pages.push((format!("{name}.1"), page));
    for below in command.get_subcommands() {
        add(below, format!("{path} {}", below.get_name()).trim_start(), pages)?;
    }
    Ok(())
}

/// Returns the sections that the help text has at its end, and the way to the other pages.
fn closing_sections(path: &str) -> String {
    let examples = examples_of(path).into_iter().map(|example| {
        let (effect, line) = (escaped(example.effect), escaped(example.line));
        format!("{effect}:\n.PP\n.RS 4\n.nf\n{line}\n.fi\n.RE\n")
    });
    let mut text = format!(".SH EXAMPLES\n{}", examples.collect::<Vec<_>>().join(".PP\n"));
    if !path.is_empty() {
        text.push_str(".SH SEE ALSO\n\\fBusher\\fR(1) has the exit codes and the environment.\n");
        return text;
    }
    let codes = Exit::MEANINGS.map(|(exit, meaning)| ((exit as u8).to_string(), meaning));
    text.push_str(&definitions("EXIT STATUS", codes.iter().map(|(code, is)| (&**code, *is))));
    text.push_str(&definitions("ENVIRONMENT", ENVIRONMENT.into_iter()));
    text
}

fn definitions<'a>(title: &str, entries: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let entries = entries
        .map(|(name, is)| format!(".TP\n\\fB{}\\fR\n{}\n", escaped(name), escaped(is)))
        .collect::<String>();
    format!(".SH {title}\n{entries}")
}

/// Escapes one line of text for troff, so that none of it is a command and hyphens can be copied.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\(rs").replace('-', "\\-").replace('~', "\\(ti");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_has_a_page_with_its_options_and_examples() {
        let pages = pages().unwrap();
        let page = |name: &str| {
            let found =
                pages.iter().find(|(one, _)| one == name).unwrap_or_else(|| panic!("{name}"));
            String::from_utf8(found.1.clone()).unwrap()
        };
        let first = page("usher.1");
        for part in [".SH EXAMPLES", ".SH EXIT STATUS", "\\fB78\\fR", "NO_COLOR", "usher\\-run(1)"]
        {
            assert!(first.contains(part), "{part}: {first}");
        }
        let run = page("usher-run.1");
        assert!(
            run.contains("\\-\\-takeover") && run.contains("/run/usher/takeover.sock"),
            "{run}"
        );
        assert!(page("usher-keys-rotate.1").contains("usher keys rotate"), "nested commands too");
        assert!(pages.len() >= 20, "{}", pages.len());
    }

    #[test]
    fn a_missing_folder_is_created() {
        let parent = std::env::temp_dir().join(format!("usher-man-{}", std::process::id()));
        let folder = parent.join("share/man/man1");
        write_all(&folder, &[("usher.1".to_owned(), b"text".to_vec())]).unwrap();
        assert_eq!(std::fs::read(folder.join("usher.1")).unwrap(), b"text");
        std::fs::remove_dir_all(parent).unwrap();
    }

    #[test]
    fn no_text_becomes_a_command_of_troff() {
        assert_eq!(escaped(".SH x"), "\\&.SH x");
        assert_eq!(escaped("a \\ --b ~/c"), "a \\(rs \\-\\-b \\(ti/c");
    }
}
