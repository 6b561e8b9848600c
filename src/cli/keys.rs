//! (to be written)

#[derive(Debug, clap::Args)]
pub struct Arguments {}

pub fn run(_arguments: Arguments) -> anyhow::Result<std::process::ExitCode> {
    anyhow::bail!("not available in this version")
}
