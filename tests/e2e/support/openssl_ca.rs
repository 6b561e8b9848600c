//! An authority of OpenSSL in a folder of its own: `openssl ca` with its database.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

const CONFIG: &str = "
[ca]
default_ca = own
[own]
database = index.txt
serial = serial
crlnumber = crlnumber
certificate = ca.pem
private_key = ca.key
new_certs_dir = .
default_md = sha256
default_days = 30
policy = names
copy_extensions = copy
unique_subject = no
[names]
commonName = supplied
[req]
distinguished_name = none
[none]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
";

pub struct OpensslCa {
    folder: PathBuf,
}

impl OpensslCa {
    /// Makes an authority with this common name.
    pub fn new(name: &str) -> Self {
        let ca = Self::empty();
        ca.openssl(&format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout ca.key \
             -out ca.pem -subj /CN={name} -days 60 -config config -extensions authority"
        ));
        ca
    }

    /// Makes an authority that another one has signed.
    pub fn below(parent: &Self, name: &str) -> Self {
        let ca = Self::empty();
        parent.issue(
            name,
            "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign",
        );
        for ending in ["pem", "key"] {
            fs::copy(parent.path(&format!("{name}.{ending}")), ca.path(&format!("ca.{ending}")))
                .unwrap();
        }
        ca
    }

    fn empty() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name =
            format!("usher-ca-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        let ca = Self { folder };
        for (file, text) in
            [("config", CONFIG), ("index.txt", ""), ("serial", "1000\n"), ("crlnumber", "10\n")]
        {
            fs::write(ca.path(file), text).unwrap();
        }
        ca
    }

    /// Issues `name.pem` with `name.key`. The extensions are lines of OpenSSL's configuration.
    pub fn issue(&self, name: &str, extensions: &str) {
        fs::write(self.path(&format!("{name}.ext")), format!("[extra]\n{extensions}\n")).unwrap();
        self.openssl(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout {name}.key -out \
             {name}.csr -subj /CN={name} -config config"
        ));
        self.openssl(&format!(
            "ca -batch -notext -config config -in {name}.csr -out {name}.pem -extfile {name}.ext \
             -extensions extra"
        ));
    }

    /// Issues a certificate for a client.
    pub fn issue_client(&self, name: &str) {
        self.issue(name, "extendedKeyUsage=clientAuth");
    }

    pub fn revoke(&self, name: &str) {
        self.openssl(&format!("ca -batch -config config -revoke {name}.pem"));
    }

    /// Returns the next CRL, in PEM, for so many seconds.
    pub fn crl(&self, seconds: u32) -> String {
        self.openssl(&format!("ca -config config -gencrl -crlsec {seconds} -out list.crl"));
        self.text("list.crl")
    }

    /// Returns a CRL that these lines of OpenSSL's configuration change.
    pub fn crl_with(&self, default_lines: &str, other_lines: &str) -> String {
        let own = format!("[own]\n{default_lines}");
        let config = CONFIG.replace("[own]", &own).replace("crlnumber = crlnumber\n", "");
        fs::write(self.path("crl.config"), config + other_lines).unwrap();
        self.openssl("ca -config crl.config -gencrl -crlsec 86400 -out list.crl");
        self.text("list.crl")
    }

    pub fn text(&self, file: &str) -> String {
        fs::read_to_string(self.path(file)).unwrap()
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.folder.join(file)
    }

    pub fn openssl(&self, arguments: &str) {
        let mut command = Command::new("openssl");
        let output = command.args(arguments.split_whitespace()).current_dir(&self.folder).output();
        let output = output.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "openssl {arguments}: {said}");
    }
}

impl Drop for OpensslCa {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}
