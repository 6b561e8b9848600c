//! Addresses that another process uses.

use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};

use crate::support::redis::free_port;
use crate::support::{Echo, Setup, Usher};

/// Runs a second process with the configuration of the first and other addresses. It ends at once.
fn run_second(usher: &Usher, listener: &str, admin: &str) -> Output {
    let text = std::fs::read_to_string(usher.config_path()).unwrap();
    let [tables, rest] = text.split_once("[[issuer]]").map(|(head, rest)| [head, rest]).unwrap();
    assert!(tables.contains("[[listener]]"));
    let rest = rest.replace("address = \"127.0.0.1:0\"", &format!("address = \"{admin}\""));
    let text =
        format!("state_dir = \"state\"\n[[listener]]\n{listener}\nplain = true\n[[issuer]]{rest}");
    let path = usher.folder().join("second.toml");
    std::fs::write(&path, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_usher"));
    command.args(["run", "--log-format", "json", "-c"]).arg(path).stdin(Stdio::null());
    command.output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_of_another_process_is_an_error_and_is_not_shared() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).start().await;
    let free = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let listener = format!("address = \"{}\"", usher.plain);
    let asking = format!("address = \"{}\"\nshare_port = true", usher.admin);
    for (listener, admin, address) in [
        (listener.as_str(), free, usher.plain),
        // An address that covers the one in use.
        (&format!("address = \"0.0.0.0:{}\"", usher.plain.port()), free, usher.plain),
        (&format!("address = \"{free}\""), usher.admin, usher.admin),
        // The admin listener never shares its port, even if the other process asks for it.
        (&asking, free, usher.admin),
    ] {
        let output = run_second(&usher, listener, &admin.to_string());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(69), "{said}");
        let port = format!(":{}: the port is in use by another process", address.port());
        assert!(said.contains(&port), "{said}");
        assert!(!said.contains("\"event\":\"ready\""), "{said}");
    }
    usher.finish().await;
}
