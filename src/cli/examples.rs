//! The examples in the help text and the manual page of each command.
//!
//! A test runs the list from top to bottom (`tests/e2e/help.rs`). Each line works in a folder in
//! which the lines before it have run.

/// One command line, and its effect.
#[derive(Clone, Copy, Debug)]
pub struct Example {
    /// The names of the command, without the program: `keys list`.
    pub command: &'static str,
    pub effect: &'static str,
    pub line: &'static str,
}

const fn example(command: &'static str, effect: &'static str, line: &'static str) -> Example {
    Example { command, effect, line }
}

pub const EXAMPLES: &[Example] = &[
    example("demo", "Try Usher in a browser", "usher demo"),
    example("demo", "Use another port for the page", "usher demo --port 8080"),
    example("init", "Begin on this machine, without TLS", "usher init --plain"),
    example("init", "Write a configuration with TLS to another file", "usher init edge.toml"),
    example("cert", "Make cert.pem and key.pem for localhost", "usher cert"),
    example(
        "cert",
        "Make a certificate for another name",
        "usher cert --cert chat.pem --key chat.key chat.example.com",
    ),
    example("check", "Check usher.toml, its files, ports and servers", "usher check"),
    example(
        "check",
        "Check the file alone, and fail if there is a warning",
        "usher check --offline --strict usher.toml",
    ),
    example("check", "Check in a pipeline", "usher check --json > report.json"),
    example("run", "Run with usher.toml from here or from /etc/usher", "usher run"),
    example(
        "run",
        "Reload the configuration when it changes",
        "usher run -c /etc/usher/usher.toml --watch",
    ),
    example(
        "run",
        "Take over from the running process, without a gap",
        "usher run --takeover /run/usher/takeover.sock",
    ),
    example(
        "keys generate",
        "Make signing keys before the first start",
        "usher keys generate --state-dir keys --algorithm es256",
    ),
    example("keys list", "List the keys of a configuration", "usher keys list -c usher.toml"),
    example(
        "keys rotate",
        "Sign with the next key, and make another one",
        "usher keys rotate --state-dir keys",
    ),
    example(
        "token mint",
        "Sign a token for ada",
        "usher token mint --secret-file jwt-secret --issuer https://id.example.com \
         --audience chat --subject ada > token.jwt",
    ),
    example(
        "token mint",
        "Sign a token with permissions and another claim",
        "usher token mint --secret-file jwt-secret --issuer https://id.example.com \
         --audience chat --subject bob --permission chat:read --claim team=blue --ttl 1h",
    ),
    example(
        "token inspect",
        "Show the claims of a token",
        "usher token inspect --token-file token.jwt",
    ),
    example(
        "explain",
        "Show how a token would be judged",
        "usher explain --token-file token.jwt ws://127.0.0.1:8080/ws",
    ),
    example(
        "explain",
        "Show it for a page, as JSON",
        "usher explain --token-file token.jwt --origin https://app.example.com --json \
         ws://127.0.0.1:8080/ws",
    ),
    example(
        "bench",
        "Open 30 connections, each with a ticket of its own",
        "usher bench ws://127.0.0.1:8080/ws --auth ticket --token-file token.jwt --connections 30",
    ),
    example(
        "bench connect",
        "Begin 50 connections per second",
        "usher bench connect ws://127.0.0.1:8080/ws --auth header --token-file token.jwt \
         --rate 50 --duration 1s",
    ),
    example(
        "bench messages",
        "Send messages for one second, and print JSON",
        "usher bench messages ws://127.0.0.1:8080/ws --auth header --token-file token.jwt \
         --duration 1s --json",
    ),
    example(
        "bench idle",
        "Measure the memory of 1,000 idle connections",
        "usher bench idle ws://127.0.0.1:8080/ws --auth header --token-file token.jwt \
         --pid $(pidof usher)",
    ),
    example("status", "Show the state of the Usher of usher.toml", "usher status"),
    example("status", "Ask another admin listener", "usher status --admin 127.0.0.1:9090 --json"),
    example("metrics", "Print the metrics of the Usher of usher.toml", "usher metrics"),
    example("sessions", "List the sessions of a user", "usher sessions --user ada"),
    example("sessions", "List those of all nodes, as JSON", "usher sessions --all --json"),
    example("revoke", "End the sessions of a user", "usher revoke --user ada"),
    example(
        "revoke",
        "Reject every token that was issued up to now",
        "usher revoke --issued-before now --issuer main",
    ),
    example("reload", "Load the changed configuration", "usher reload"),
    example("reload", "Do it in a script", "usher reload --json"),
    example("audit", "Read the audit log of usher.toml", "usher audit"),
    example(
        "audit",
        "Follow the ends of sessions of one user",
        "usher audit --follow --event session_ended --user ada",
    ),
    example(
        "audit",
        "Keep the last hour, line by line as JSON",
        "usher audit --since 1h --json > last-hour.jsonl",
    ),
    example(
        "drain",
        "Move a fifth of the sessions of a route to other nodes",
        "usher drain --percent 20 --route /ws",
    ),
    example("drain", "Stop the node", "usher drain"),
    example("schema", "Write the schema for an editor", "usher schema > usher.schema.json"),
    example(
        "completions",
        "Complete commands in bash",
        "usher completions bash > ~/.local/share/bash-completion/completions/usher",
    ),
    example(
        "completions",
        "Complete commands in zsh, from a folder of $fpath",
        "usher completions zsh > ~/.zfunc/_usher",
    ),
    example(
        "completions",
        "Complete commands in fish",
        "usher completions fish > ~/.config/fish/completions/usher.fish",
    ),
    example("man", "Read the manual page", "usher man | man -l -"),
    example(
        "man",
        "Write the page of each command into a folder",
        "usher man ~/.local/share/man/man1",
    ),
];

/// The first steps, in the help text of the program itself.
const FIRST_STEPS: [&str; 4] = [
    "usher demo",
    "usher init --plain",
    "usher check",
    "usher run -c /etc/usher/usher.toml --watch",
];

/// Returns the examples of a command and of those below it. `""` is the program.
pub fn examples_of(command: &str) -> Vec<Example> {
    let is_of = |example: &&Example| match command {
        "" => FIRST_STEPS.contains(&example.line),
        _ => example
            .command
            .strip_prefix(command)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(' ')),
    };
    EXAMPLES.iter().filter(is_of).copied().collect()
}
