//! A real DNS server of a test's own, as one process that can be stopped and continued.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::eventually::eventually;
use super::redis::free_port;

/// A dnsmasq that knows the names under `.test` that the test gives it.
pub struct Dns {
    child: Child,
    folder: PathBuf,
    address: Ipv4Addr,
}

impl Dns {
    /// Starts it. Returns nothing, with a loud message, if this system does not let a test have
    /// port 53 of a loopback address, or a process have its own `/etc/resolv.conf`.
    #[allow(clippy::print_stderr, reason = "a test that is skipped must be seen")]
    pub async fn start(name: &str, addresses: &[IpAddr]) -> Option<Self> {
        // Each test has a loopback address of its own, because resolvers ask at port 53 only.
        let [high, low] = free_port().to_be_bytes();
        let address = Ipv4Addr::new(127, 53, high, low);
        if let Err(error) = UdpSocket::bind((address, 53)) {
            eprintln!("SKIPPED: this test may not use port 53: {error}");
            return None;
        }
        let tried = Command::new("unshare")
            .args(["--map-root-user", "--mount", "sh", "-c"])
            .arg("mount --bind /etc/resolv.conf /etc/resolv.conf")
            .output();
        if !tried.as_ref().is_ok_and(|output| output.status.success()) {
            eprintln!("SKIPPED: this system allows no mount namespace: {tried:?}");
            return None;
        }
        let folder =
            std::env::temp_dir().join(format!("usher-e2e-dns-{}-{high}-{low}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let hosts = folder.join("hosts");
        fs::write(&hosts, lines(name, addresses)).unwrap();
        // The path of Debian is not in every PATH.
        let path = std::env::var("PATH").unwrap_or_default();
        let user = String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout);
        let mut child = Command::new("dnsmasq")
            .env("PATH", format!("{path}:/usr/sbin"))
            .args(["--keep-in-foreground", "--conf-file=/dev/null", "--pid-file="])
            .args(["--bind-interfaces", "--no-resolv", "--no-hosts", "--local=/test/"])
            .arg(format!("--user={}", user.unwrap().trim()))
            .arg(format!("--listen-address={address}"))
            .arg(format!("--addn-hosts={}", hosts.display()))
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("dnsmasq; scripts/setup-tests.sh installs what the tests need");
        eventually("dnsmasq answers", async || {
            assert!(child.try_wait().unwrap().is_none(), "dnsmasq does not start");
            answers(address)
        })
        .await;
        Some(Self { child, folder, address })
    }

    /// Returns the file that leads a process to this server.
    pub fn resolv_conf(&self) -> String {
        format!("nameserver {}\noptions timeout:1 attempts:2\n", self.address)
    }

    /// Gives the name these addresses. Without one, the name does not exist.
    pub fn set(&self, name: &str, addresses: &[IpAddr]) {
        fs::write(self.folder.join("hosts"), lines(name, addresses)).unwrap();
        self.signal("HUP");
    }

    pub fn hang(&self) {
        self.signal("STOP");
    }

    pub fn go_on(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        super::signal(self.child.id(), name);
    }
}

fn lines(name: &str, addresses: &[IpAddr]) -> String {
    addresses.iter().map(|address| format!("{address} {name}\n")).collect()
}

/// Asks for a name that does not exist.
fn answers(address: Ipv4Addr) -> bool {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(std::time::Duration::from_millis(200))).unwrap();
    let question =
        b"\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x02no\x04test\x00\x00\x01\x00\x01";
    socket.send_to(question, (address, 53)).is_ok() && socket.recv(&mut [0; 512]).is_ok()
}

impl Drop for Dns {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}
