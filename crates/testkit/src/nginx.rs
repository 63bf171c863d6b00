//! [`Nginx`]: a real web server over a directory.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::process::{Process, find, free_address};

/// Where Debian's package libnginx-mod-http-dav-ext puts its module.
const DAV_MODULE: &str = "/usr/lib/nginx/modules/ngx_http_dav_ext_module.so";

/// How the server lists directories.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Listing {
    /// HTML pages (`autoindex`).
    Index,
    /// WebDAV, and no pages.
    WebDav,
}

/// A real web server over a directory, on the loopback; dropping it ends it.
#[derive(Debug)]
pub struct Nginx {
    address: SocketAddr,
    _process: Process,
    _dir: tempfile::TempDir,
}

impl Nginx {
    /// Serves `root`; an error says what this host lacks for it.
    ///
    /// # Errors
    ///
    /// When nginx, or its WebDAV module, is not installed.
    ///
    /// # Panics
    ///
    /// When nginx is there and does not start.
    pub fn start(root: &Path, listing: Listing) -> Result<Self, String> {
        let program = find("nginx").ok_or("no nginx (Debian: nginx-light)")?;
        if listing == Listing::WebDav && !Path::new(DAV_MODULE).exists() {
            return Err("nginx has no WebDAV (Debian: libnginx-mod-http-dav-ext)".into());
        }
        let dir = tempfile::tempdir().expect("a temporary directory");
        let address = free_address();
        let config = dir.path().join("nginx.conf");
        fs::write(&config, configuration(root, dir.path(), address, listing)).expect("written");
        let mut command = Command::new(program);
        command.arg("-p").arg(dir.path()).arg("-c").arg(&config).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let process = Process::start(&mut command, address);
        Ok(Self { address, _process: process, _dir: dir })
    }

    /// The address of its root, with `/` at the end.
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }
}

/// One process without a master, so that killing it ends all of it.
fn configuration(root: &Path, dir: &Path, address: SocketAddr, listing: Listing) -> String {
    let (module, list) = match listing {
        Listing::Index => (String::new(), "autoindex on;"),
        Listing::WebDav => (format!("load_module {DAV_MODULE};"), "dav_ext_methods PROPFIND OPTIONS;"),
    };
    let user = if is_root() { "user root;" } else { "" };
    let (root, dir) = (root.display(), dir.display());
    format!(
        "{module} {user} daemon off; master_process off; pid {dir}/pid; error_log {dir}/error.log;\n\
         events {{ worker_connections 256; }}\n\
         http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000;\n\
         client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;\n\
         uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;\n\
         server {{ listen {address}; root \"{root}\"; {list} }} }}\n"
    )
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|found| std::os::unix::fs::MetadataExt::uid(&found) == 0)
}
