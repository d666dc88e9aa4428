//! Both routers on private loopback ports, measured in turn, so that whatever the machine does happens to both.

use super::pipe::{self, Figures, Target};
use super::{CompareArgs, cpu, report};
use serde::Serialize;
use std::fmt::Write;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A router must listen after so long, milliseconds.
const START_MS: u64 = 10_000;
const USER: &str = "load";
const PASS: &str = "only for this measurement";

/// Starts the routers, measures, ends them.
pub(super) fn run(args: &CompareArgs) -> Result<String, String> {
    if args.runs == 0 {
        return Err("--runs must be 1 or more".into());
    }
    let folder = Folder::new()?;
    let mut routers = vec![Router::start(
        "jabberd2-router",
        &args.stock,
        &[],
        &folder.0,
        args.server_cpu,
    )?];
    if !args.only_stock {
        let own = std::env::current_exe().map_err(|e| format!("where is this program? {e}"))?;
        let program = args.jidmesh.clone().unwrap_or(own);
        routers.push(Router::start(
            "jidmesh",
            &program,
            &["run"],
            &folder.0,
            args.server_cpu,
        )?);
    }
    // Pinned after the routers were started: they would inherit it.
    cpu::pin(args.shape.cpu)?;
    let mut runs: Vec<Run> = Vec::new();
    for _ in 0..args.runs {
        for &bytes in &args.shape.bytes {
            for router in &routers {
                let target = Target {
                    router: router.addr,
                    user: USER,
                    pass: PASS,
                    pid: Some(router.child.id()),
                };
                let figures = pipe::measure(&target, &args.shape, bytes)
                    .map_err(|e| format!("{} at {bytes} bytes: {e}{}", router.name, router.log_tail()))?;
                runs.push(Run {
                    router: router.name,
                    figures,
                });
            }
        }
    }
    let rows = summarise(
        &runs,
        &args.shape.bytes,
        &routers.iter().map(|r| r.name).collect::<Vec<_>>(),
    );
    if args.shape.json {
        report::json(&Report { rows, runs })
    } else {
        Ok(tables(&rows))
    }
}

#[derive(Serialize)]
struct Report {
    rows: Vec<Row>,
    runs: Vec<Run>,
}

#[derive(Serialize)]
struct Run {
    router: &'static str,
    figures: Figures,
}

/// Medians over the runs of one router and one frame size.
#[derive(Serialize)]
struct Row {
    router: &'static str,
    frame_bytes: usize,
    frames_per_s: Spread,
    cpu_s_per_million: Spread,
    p50_us: Option<Spread>,
    p99_us: Option<Spread>,
    p99_99_us: Option<Spread>,
    /// Against the first router: greater is faster.
    speed_ratio: f64,
    /// Against the first router: smaller is cheaper.
    cpu_ratio: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let half = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[half]
        } else {
            (values[half - 1] + values[half]) / 2.0
        };
        Some(Spread { median, min, max })
    }

    fn text(self, digits: usize) -> String {
        format!(
            "{:.digits$} ({:.digits$}..{:.digits$})",
            self.median, self.min, self.max
        )
    }
}

fn summarise(runs: &[Run], sizes: &[usize], routers: &[&'static str]) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for &frame_bytes in sizes {
        let first = rows.len();
        for &router in routers {
            let of = |value: &dyn Fn(&Figures) -> Option<f64>| {
                let mine = runs
                    .iter()
                    .filter(|r| r.router == router && r.figures.frame_bytes == frame_bytes);
                Spread::of(mine.filter_map(|r| value(&r.figures)))
            };
            let (Some(speed), Some(cpu)) = (of(&|f| Some(f.frames_per_s)), of(&|f| f.server_cpu_s_per_million)) else {
                continue;
            };
            let trip = |value: fn(&pipe::RoundTrip) -> f64| of(&|f| f.round_trip.as_ref().map(value));
            let base = rows
                .get(first)
                .map_or((speed, cpu), |r| (r.frames_per_s, r.cpu_s_per_million));
            rows.push(Row {
                router,
                frame_bytes,
                frames_per_s: speed,
                cpu_s_per_million: cpu,
                p50_us: trip(|t| t.p50_us),
                p99_us: trip(|t| t.p99_us),
                p99_99_us: trip(|t| t.p99_99_us),
                speed_ratio: speed.median / base.0.median,
                cpu_ratio: cpu.median / base.1.median,
            });
        }
    }
    rows
}

fn tables(rows: &[Row]) -> String {
    let mut out = String::from("medians (lowest..highest); ratios against the first router\n");
    for r in rows {
        let _ = write!(
            out,
            "{:>6} B  {:<16} frames/s {:<32} router CPU s/million {:<28} x{:.2} speed  x{:.3} CPU",
            r.frame_bytes,
            r.router,
            r.frames_per_s.text(0),
            r.cpu_s_per_million.text(3),
            r.speed_ratio,
            r.cpu_ratio
        );
        if let (Some(p50), Some(p99), Some(p99_99)) = (r.p50_us, r.p99_us, r.p99_99_us) {
            let _ = write!(
                out,
                "  round trip us: p50 {} p99 {} p99.99 {}",
                p50.text(1),
                p99.text(1),
                p99_99.text(1)
            );
        }
        out.push('\n');
    }
    out
}

/// A folder of our own, which goes away with this.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Folder, String> {
        use std::os::unix::fs::DirBuilderExt;
        let path = std::env::temp_dir().join(format!("jidmesh-load-{}", std::process::id()));
        // Fails when it is there already: nobody can have prepared it.
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A router that this program started and ends.
struct Router {
    name: &'static str,
    child: Child,
    addr: SocketAddr,
    log: PathBuf,
}

impl Drop for Router {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Router {
    fn start(
        name: &'static str,
        program: &Path,
        command: &[&str],
        folder: &Path,
        server_cpu: usize,
    ) -> Result<Router, String> {
        let io = |e: std::io::Error| format!("{name}: {e}");
        let addr = free_port().map_err(io)?;
        let config = configure(name, folder, addr).map_err(io)?;
        let log = folder.join(format!("{name}.log"));
        let output = fs::File::create(&log).map_err(io)?;
        // taskset becomes the program: the process id is the router's.
        let child = Command::new("taskset")
            .args(["-c", &server_cpu.to_string()])
            .arg(program)
            .args(command)
            .arg("-c")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(output.try_clone().map_err(io)?)
            .stderr(output)
            .spawn()
            .map_err(|e| format!("{name}: cannot run taskset and {}: {e}", program.display()))?;
        let mut router = Router { name, child, addr, log };
        router.wait_ready()?;
        Ok(router)
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

    fn log_tail(&self) -> String {
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
fn configure(name: &str, folder: &Path, addr: SocketAddr) -> std::io::Result<PathBuf> {
    let users = folder.join(format!("{name}-users.xml"));
    fs::write(
        &users,
        format!("<users><user><name>{USER}</name><secret>{PASS}</secret></user></users>\n"),
    )?;
    let config = folder.join(format!("{name}.xml"));
    // jidmesh's own sections go where the stock router never looks: each has its own file.
    let own = if name == "jidmesh" {
        format!("<admin>{}</admin>", folder.join("admin.sock").display())
    } else {
        String::new()
    };
    fs::write(
        &config,
        format!(
            "<router><id>router</id><log type='stdout'/>\
             <local><ip>{}</ip><port>{}</port><users>{}</users></local>\
             <io><max_fds>1024</max_fds></io>\
             <aci><acl type='all'><user>{USER}</user></acl></aci>{own}</router>\n",
            addr.ip(),
            addr.port(),
            users.display()
        ),
    )?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn medians_and_ratios() {
        let run = |router, speed: f64| Run {
            router,
            figures: Figures {
                frame_bytes: 265,
                frames_per_s: speed,
                server_cpu_s_per_million: Some(1e6 / speed),
                ..Figures::default()
            },
        };
        let runs = [
            run("s", 100.0),
            run("j", 900.0),
            run("s", 300.0),
            run("j", 1000.0),
            run("s", 200.0),
            run("j", 1100.0),
        ];
        let rows = summarise(&runs, &[265, 1024], &["s", "j"]);
        assert_eq!(rows.len(), 2, "a size that was not measured has no row");
        assert_eq!(
            rows[0].frames_per_s,
            Spread {
                median: 200.0,
                min: 100.0,
                max: 300.0
            }
        );
        assert!((rows[1].speed_ratio - 5.0).abs() < 1e-9 && (rows[1].cpu_ratio - 0.2).abs() < 1e-9);
        assert_eq!(Spread::of([4.0, 2.0].into_iter()).unwrap().median, 3.0);
    }
}
