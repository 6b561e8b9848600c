//! Real brokers, each in a folder of its own and on free ports of loopback. A broker ends when it
//! is dropped.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::net::TcpStream;

use super::eventually::{eventually_or, eventually_within};
use super::redis::free_port;

static COUNT: AtomicU32 = AtomicU32::new(0);

/// Lines for a mosquitto that accepts clients without a login.
pub const ANONYMOUS: &str = "listener 9001 127.0.0.1\nprotocol websockets\nallow_anonymous true";

/// Mosquitto with one listener for WebSockets.
pub struct Mosquitto {
    broker: Broker,
    pub port: u16,
}

/// RabbitMQ with STOMP and MQTT over WebSockets, and no other listener.
pub struct RabbitMq {
    broker: Broker,
    pub stomp: u16,
    pub mqtt: u16,
}

/// A program with its child processes and its folder.
struct Broker {
    child: Child,
    folder: PathBuf,
}

/// A user of a broker.
pub struct Login<'a> {
    pub user: &'a str,
    pub password: &'a str,
}

impl Mosquitto {
    /// Starts a broker. Its configuration has the port 9001, which is replaced. Its file of
    /// passwords has these logins.
    pub async fn start(lines: &str, logins: &[Login<'_>]) -> Self {
        let folder = folder("mosquitto");
        let passwords = folder.join("passwords");
        fs::write(&passwords, "").unwrap();
        for Login { user, password } in logins {
            let made = Command::new("mosquitto_passwd")
                .arg("-b")
                .arg(&passwords)
                .args([user, password])
                .stderr(Stdio::null())
                .status();
            assert!(
                made.expect(
                    "mosquitto_passwd; scripts/setup-tests.sh installs what the tests need"
                )
                .success()
            );
        }
        // Mosquitto reads the file as another user if root started it.
        let _ = Command::new("chown")
            .arg("mosquitto")
            .arg(&folder)
            .arg(&passwords)
            .stderr(Stdio::null())
            .status();
        // Mosquitto cannot choose a port. With a listener for WebSockets alone it does not start,
        // so there is one for plain MQTT too.
        let [plain, port] = free_ports();
        let lines = lines
            .replace("9001", &port.to_string())
            .replace("/etc/mosquitto/passwords", passwords.to_str().unwrap());
        let config =
            format!("listener {plain} 127.0.0.1\n{lines}\nlog_dest stderr\nlog_type all\n");
        fs::write(folder.join("mosquitto.conf"), config).unwrap();
        let program = if Path::new("/usr/sbin/mosquitto").exists() {
            "/usr/sbin/mosquitto"
        } else {
            "mosquitto"
        };
        let mut command = Command::new(program);
        command.arg("-c").arg(folder.join("mosquitto.conf"));
        let mut broker = Broker::spawn(command, folder);
        broker.listens(&[port], Duration::from_secs(60)).await;
        Self { broker, port }
    }

    /// Returns the lines of its log about clients that have logged in.
    pub fn connected(&self) -> Vec<String> {
        let log = self.broker.log();
        log.lines()
            .filter(|line| line.contains("New client connected"))
            .map(str::to_owned)
            .collect()
    }
}

impl RabbitMq {
    /// Starts a broker. Every login has all rights in the virtual host `/` and none elsewhere.
    pub async fn start(lines: &str, logins: &[Login<'_>]) -> Self {
        let folder = folder("rabbitmq");
        let [stomp, mqtt, names, node] = free_ports();
        let users = logins
            .iter()
            .map(|login| json!({ "name": login.user, "password": login.password, "tags": "" }));
        let anything = |login: &Login<'_>| {
            json!({
                "user": login.user,
                "vhost": "/",
                "configure": ".*",
                "write": ".*",
                "read": ".*",
            })
        };
        let definitions = json!({
            "users": users.collect::<Vec<_>>(),
            "vhosts": [{ "name": "/" }],
            "permissions": logins.iter().map(anything).collect::<Vec<_>>(),
        });
        let lines = lines.replace("15674", &stomp.to_string()).replace("15675", &mqtt.to_string());
        let config = format!(
            "listeners.tcp = none\nload_definitions = {}\nlog.console = true\nlog.file = false\n\
             {lines}\n",
            folder.join("definitions.json").display()
        );
        for (name, text) in [
            ("definitions.json", definitions.to_string()),
            ("rabbitmq.conf", config),
            ("enabled_plugins", "[rabbitmq_web_stomp,rabbitmq_web_mqtt].".to_owned()),
            (".erlang.cookie", format!("usher{node}")),
        ] {
            fs::write(folder.join(name), text).unwrap();
        }
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o400);
        fs::set_permissions(folder.join(".erlang.cookie"), mode).unwrap();
        // The wrapper of Debian would run it as another user, with the files in /etc and /var.
        let packaged = "/usr/lib/rabbitmq/bin/rabbitmq-server";
        let server = if Path::new(packaged).exists() { packaged } else { "rabbitmq-server" };
        let mut command = Command::new("sh");
        // Without this command, the node would start a name server that outlives it.
        command.args([
            "-c",
            "epmd -port \"$ERL_EPMD_PORT\" -address 127.0.0.1 & exec \"$0\"",
            server,
        ]);
        command
            .env("HOME", &folder)
            .env("ERL_EPMD_PORT", names.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODENAME", format!("usher-{node}@localhost"))
            .env("RABBITMQ_DIST_PORT", node.to_string())
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "-kernel inet_dist_use_interface {127,0,0,1}",
            )
            .env("RABBITMQ_CONFIG_FILE", folder.join("rabbitmq.conf"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", folder.join("advanced.config"))
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", folder.join("enabled_plugins"))
            .env("RABBITMQ_MNESIA_BASE", folder.join("data"))
            .env("RABBITMQ_LOG_BASE", folder.join("logs"))
            .env("RABBITMQ_LOGS", "-");
        let mut broker = Broker::spawn(command, folder);
        // The start takes about ten seconds on two idle cores.
        broker.listens(&[stomp, mqtt], Duration::from_secs(120)).await;
        broker.has_logged("Server startup complete").await;
        Self { broker, stomp, mqtt }
    }

    pub fn log(&self) -> String {
        self.broker.log()
    }
}

impl Broker {
    fn spawn(mut command: Command, folder: PathBuf) -> Self {
        let log = fs::File::create(folder.join("log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).process_group(0);
        let child = command.spawn().unwrap_or_else(|error| {
            panic!("{command:?}: {error}; scripts/setup-tests.sh installs what the tests need")
        });
        Self { child, folder }
    }

    async fn listens(&mut self, ports: &[u16], patience: Duration) {
        for port in ports {
            eventually_within(patience, format!("the broker listens on {port}"), async || {
                assert!(
                    self.child.try_wait().unwrap().is_none(),
                    "the broker does not start; scripts/setup-tests.sh installs what the tests \
                     need:\n{}",
                    self.log()
                );
                TcpStream::connect(("127.0.0.1", *port)).await.is_ok()
            })
            .await;
        }
    }

    async fn has_logged(&self, part: &str) {
        let complaint = async || format!("{part} in\n{}", self.log());
        eventually_or(async || self.log().contains(part), complaint).await;
    }

    fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.join("log")).unwrap_or_default()).into_owned()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // Ends its child processes too: they are in its process group.
        let _ =
            Command::new("kill").args(["-KILL", "--", &format!("-{}", self.child.id())]).status();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn folder(name: &str) -> PathBuf {
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let folder =
        std::env::temp_dir().join(format!("usher-e2e-{name}-{}-{number}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn free_ports<const COUNT: usize>() -> [u16; COUNT] {
    std::array::from_fn(|_| free_port())
}
