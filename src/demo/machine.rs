//! A machine: the three processes that one server would run, side by side with another machine's on loopback.

use super::DOMAIN;
use super::jabberd::{Jabberd, Link};
use super::model;
use super::place;
use super::process::Process;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A lost process is waited for so long before it is given up, seconds. jidmesh's default is 9.
pub(super) const GRACE_S: u64 = 3;

/// What serves the clients on both machines.
#[derive(Clone, Debug)]
pub(super) enum Parts {
    /// jabberd2, as it is installed.
    Real(Jabberd),
    /// Models of its sm and c2s, played by this very program.
    Simulated,
}

/// jidmesh must listen after so long, seconds.
const START_S: u64 = 10;

#[derive(Debug)]
pub(super) struct Machine {
    pub(super) name: &'static str,
    folder: PathBuf,
    parts: Parts,
    /// Where clients connect.
    pub(super) clients: SocketAddr,
    processes: Vec<Process>,
}

/// Prepares both machines: their folders, configurations and the database.
pub(super) fn prepare(parts: &Parts, folder: &Path, names: [&'static str; 2]) -> Result<[Machine; 2], String> {
    let [router_a, router_b, mesh_a, mesh_b, clients_a, clients_b] = place::free_ports()?;
    let secret = place::password()?;
    let shared = folder.join("shared");
    make_folder(&shared)?;
    if let Parts::Real(jabberd) = parts {
        jabberd.make_database(&shared.join("users.db"))?;
    }
    let machine = |at: usize, router: u16, mesh: [u16; 2], clients: u16| {
        let own = folder.join(names[at]);
        make_folder(&own)?;
        let pass = place::password()?;
        let link = Link {
            port: router,
            user: "jabberd",
            pass: &pass,
        };
        let users = format!("<users><user><name>jabberd</name><secret>{pass}</secret></user></users>\n");
        write(&own, "users.xml", &users)?;
        write(
            &own,
            "jidmesh.xml",
            &router_config(&own, link, names[at], mesh, &secret),
        )?;
        match parts {
            Parts::Real(jabberd) => {
                let database = shared.join("users.db");
                write(&own, "sm.xml", &jabberd.sm_config(link, &database))?;
                write(&own, "c2s.xml", &jabberd.c2s_config(link, &database, clients))?;
            }
            Parts::Simulated => {
                let plan = model::Plan {
                    router,
                    user: link.user.into(),
                    pass: pass.clone(),
                    clients,
                    shared: shared.clone(),
                };
                model::write_plan(&own, &plan)?;
            }
        }
        Ok::<Machine, String>(Machine {
            name: names[at],
            folder: own,
            parts: parts.clone(),
            clients: SocketAddr::from((Ipv4Addr::LOCALHOST, clients)),
            processes: Vec::new(),
        })
    };
    Ok([
        machine(0, router_a, [mesh_a, mesh_b], clients_a)?,
        machine(1, router_b, [mesh_b, mesh_a], clients_b)?,
    ])
}

impl Machine {
    /// Starts its three processes.
    pub(super) fn start(&mut self) -> Result<(), String> {
        let own = std::env::current_exe().map_err(|e| format!("where is this program? {e}"))?;
        let _ = fs::remove_file(self.admin());
        self.run("jidmesh", Command::new(&own).args(["run", "-c", "jidmesh.xml"]))?;
        self.wait_jidmesh()?;
        for what in ["sm", "c2s"] {
            let mut command = match &self.parts {
                Parts::Real(jabberd) => Command::new(jabberd.program(what)),
                Parts::Simulated => Command::new(&own),
            };
            match &self.parts {
                Parts::Real(_) => command.args(["-c", &format!("{what}.xml")]),
                Parts::Simulated => command.args(["demo", "--play", what]),
            };
            self.run(what, &mut command)?;
        }
        Ok(())
    }

    fn run(&mut self, what: &str, command: &mut Command) -> Result<(), String> {
        let process = Process::start(&format!("{what} of {}", self.name), &self.folder, command)?;
        self.processes.push(process);
        Ok(())
    }

    /// A component that comes before its router sleeps a second before it looks again.
    fn wait_jidmesh(&mut self) -> Result<(), String> {
        let end = Instant::now() + Duration::from_secs(START_S);
        while !self.admin().exists() {
            if let Some(why) = self.ended() {
                return Err(why);
            }
            if Instant::now() > end {
                return Err(format!(
                    "jidmesh of {} does not come up in {START_S} s.\n{}",
                    self.name,
                    self.logs()
                ));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// SIGKILL for all of its processes at once, as when the power fails; they are gone when this returns.
    pub(super) fn kill(&mut self) {
        self.processes.iter_mut().for_each(Process::kill);
        self.processes.clear();
    }

    /// Its jidmesh and the other machine's have found one another and know all of each other's users.
    pub(super) fn has_met(&self, other: &str) -> bool {
        let line = format!("mesh: {other}.{DOMAIN} is ready");
        self.processes.iter().any(|process| process.log().contains(&line))
    }

    /// "jidmesh 12, sm 13, c2s 14": the numbers of its processes.
    pub(super) fn pids(&self) -> String {
        let pids: Vec<String> = self
            .processes
            .iter()
            .map(|process| {
                format!(
                    "{} {}",
                    process.name.split(' ').next().unwrap_or_default(),
                    process.pid()
                )
            })
            .collect();
        pids.join(", ")
    }

    /// A process that has ended by itself, in words.
    pub(super) fn ended(&mut self) -> Option<String> {
        self.processes.iter_mut().find_map(Process::ended)
    }

    /// The ends of all of its logs.
    pub(super) fn logs(&self) -> String {
        let log = |process: &Process| format!("{}: {}", process.name, process.log_end());
        self.processes.iter().map(log).collect()
    }

    /// Its admin socket, for `jidmesh status --admin`.
    pub(super) fn admin(&self) -> PathBuf {
        self.folder.join("admin.sock")
    }
}

fn router_config(folder: &Path, link: Link<'_>, name: &str, mesh: [u16; 2], secret: &str) -> String {
    let [own, other] = mesh;
    format!(
        "<router><id>router</id><log type='stdout'/>\n\
         <local><ip>127.0.0.1</ip><port>{}</port><users>{users}</users></local>\n\
         <io><max_fds>256</max_fds></io><aci><acl type='all'><user>{}</user></acl></aci>\n\
         <mesh><node>{name}.{DOMAIN}</node><local><ip>127.0.0.1</ip><port>{own}</port></local>\
         <secret>{secret}</secret><peer port='{other}'>127.0.0.1</peer></mesh>\n\
         <grace>{GRACE_S}</grace><tuning shards='1'/><admin>{admin}</admin></router>\n",
        link.port,
        link.user,
        users = folder.join("users.xml").display(),
        admin = folder.join("admin.sock").display(),
    )
}

fn make_folder(path: &Path) -> Result<(), String> {
    fs::create_dir(path).map_err(|e| format!("{}: {e}", path.display()))
}

fn write(folder: &Path, name: &str, text: &str) -> Result<(), String> {
    let path = folder.join(name);
    fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))
}
