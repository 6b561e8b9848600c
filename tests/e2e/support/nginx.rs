//! A real nginx in front of another server, as one process that can be stopped and continued.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::eventually::eventually;
use super::redis::free_port;

pub struct Nginx {
    child: Child,
    folder: PathBuf,
    address: SocketAddr,
}

impl Nginx {
    /// Starts it. It forwards everything to `behind`, and answers `/healthz` itself.
    pub async fn start(behind: SocketAddr) -> Self {
        Self::start_at(([127, 0, 0, 1], free_port()).into(), behind).await
    }

    /// Starts it at this address.
    pub async fn start_at(address: SocketAddr, behind: SocketAddr) -> Self {
        let folder =
            std::env::temp_dir().join(format!("usher-e2e-nginx-{}-{address}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|name| format!("{name}_temp_path {}/{name};\n", folder.display()))
            .collect();
        let config = format!(
            "daemon off; master_process off; pid {0}/pid; error_log stderr;\n\
             events {{}}\n\
             http {{ access_log off;\n{temporary}\
             server {{ listen {address};\n\
             location = /healthz {{ return 200; }}\n\
             location / {{ proxy_pass http://{behind}; proxy_http_version 1.1;\n\
             proxy_set_header Host $http_host; proxy_set_header Upgrade $http_upgrade;\n\
             proxy_set_header Connection upgrade; }} }} }}\n",
            folder.display()
        );
        fs::write(folder.join("nginx.conf"), config).unwrap();
        // The path of Debian is not in every PATH.
        let path = std::env::var("PATH").unwrap_or_default();
        let child = Command::new("nginx")
            .env("PATH", format!("{path}:/usr/sbin"))
            .arg("-c")
            .arg(folder.join("nginx.conf"))
            .args(["-p", "/"])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx; scripts/setup-tests.sh installs what the tests need");
        let nginx = Self { child, folder, address };
        eventually("nginx listens", async || TcpStream::connect(address).is_ok()).await;
        nginx
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Stops the process: the kernel still accepts its connections, and nothing answers.
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

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}
