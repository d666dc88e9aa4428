//! A router that this program starts for a measurement, and ends: on a loopback port of its own, in a folder of its own.

use super::component::Router;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A router must listen after so long, milliseconds.
const START_MS: u64 = 10_000;
const USER: &str = "load";
const PASS: &str = "only for this measurement";

/// Which router.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// jabberd2's own.
    Stock(PathBuf),
    /// With this `<tuning>` element.
    Jidmesh {
        program: PathBuf,
        name: String,
        tuning: String,
    },
    /// The dumb relay, for so many pairs of components.
    Relay { program: PathBuf, pairs: usize },
}

impl Kind {
    pub(super) fn name(&self) -> String {
        match self {
            Kind::Stock(_) => "jabberd2-router".into(),
            Kind::Jidmesh { name, .. } => name.clone(),
            Kind::Relay { .. } => "relay".into(),
        }
    }

    /// The program and its arguments.
    fn command(&self, config: &Path, addr: SocketAddr) -> (&Path, Vec<String>) {
        let file = || vec!["-c".to_owned(), config.display().to_string()];
        match self {
            Kind::Stock(program) => (program, file()),
            Kind::Jidmesh { program, .. } => (program, [vec!["run".to_owned()], file()].concat()),
            Kind::Relay { program, pairs } => {
                let words = [
                    "load",
                    "relay",
                    "--pass",
                    PASS,
                    "--listen",
                    &addr.to_string(),
                    "--pairs",
                ];
                let words = words.iter().map(|word| (*word).to_owned());
                (program, words.chain([pairs.to_string()]).collect())
            }
        }
    }
}

/// A folder of our own, which goes away with this.
#[derive(Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new() -> Result<Folder, String> {
        use std::os::unix::fs::DirBuilderExt;
        let path = std::env::temp_dir().join(format!("jidmesh-load-{}", std::process::id()));
        // Fails when it is there already: nobody can have prepared it.
        let made = fs::DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Folder(path))
    }
}

impl Folder {
    /// Writes a file there; its path.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<PathBuf, String> {
        let path = self.0.join(name);
        fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running router.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) name: String,
    child: Child,
    addr: SocketAddr,
    log: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts it, pinned to these CPUs (as `taskset -c` has them), and waits until it listens.
    pub(super) fn start(kind: &Kind, folder: &Folder, cpus: &str) -> Result<Server, String> {
        let name = kind.name();
        let io = |e: std::io::Error| format!("{name}: {e}");
        let addr = free_port().map_err(io)?;
        // Of its own: it must not take over the sessions of one that was ended before.
        let stem = folder.0.join(format!("{name}-{}", addr.port()));
        let config = configure(kind, &stem, addr).map_err(io)?;
        let log = stem.with_extension("log");
        let output = fs::File::create(&log).map_err(io)?;
        let (program, words) = kind.command(&config, addr);
        // taskset becomes the program: the process id is the router's.
        let mut command = Command::new("taskset");
        command.args(["-c", cpus]).arg(program).args(words);
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone().map_err(io)?)
            .stderr(output)
            .spawn()
            .map_err(|e| format!("{name}: cannot run taskset and {}: {e}", program.display()))?;
        let mut server = Server { name, child, addr, log };
        server.wait_ready()?;
        Ok(server)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn router(&self) -> Router {
        Router {
            addr: self.addr,
            user: USER.into(),
            pass: PASS.into(),
            secret: PASS.into(),
            redirects: false,
        }
    }

    fn wait_ready(&mut self) -> Result<(), String> {
        let end = Instant::now() + Duration::from_millis(START_MS);
        while TcpStream::connect(self.addr).is_err() {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("{} ended ({status}){}", self.name, self.log_tail()));
            }
            if Instant::now() > end {
                return Err(format!(
                    "{} does not listen on {}{}",
                    self.name,
                    self.addr,
                    self.log_tail()
                ));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The end of its log, for an error.
    pub(super) fn log_tail(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let tail = String::from_utf8_lossy(&text[text.len().saturating_sub(2_000)..]).into_owned();
        if tail.is_empty() {
            String::new()
        } else {
            format!("; its log ends:\n{tail}")
        }
    }
}

/// A port that was free a moment ago.
fn free_port() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// A router.xml that both understand, and its users.
fn configure(kind: &Kind, stem: &Path, addr: SocketAddr) -> std::io::Result<PathBuf> {
    let users = stem.with_extension("users.xml");
    fs::write(
        &users,
        format!("<users><user><name>{USER}</name><secret>{PASS}</secret></user></users>\n"),
    )?;
    let config = stem.with_extension("xml");
    // What only jidmesh knows stands in its own file.
    let own = match kind {
        Kind::Stock(_) | Kind::Relay { .. } => String::new(),
        Kind::Jidmesh { tuning, .. } => format!("{tuning}<admin>{}</admin>", stem.with_extension("sock").display()),
    };
    fs::write(
        &config,
        format!(
            "<router><id>router</id><log type='stdout'/>\
             <local><ip>{}</ip><port>{}</port><users>{}</users><secret>{PASS}</secret></local>\
             <io><max_fds>1024</max_fds></io>\
             <aci><acl type='all'><user>{USER}</user></acl></aci>{own}</router>\n",
            addr.ip(),
            addr.port(),
            users.display()
        ),
    )?;
    Ok(config)
}
