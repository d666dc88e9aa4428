//! Logins and logouts, and nothing else: a storm, or a steady coming and going.

use super::users::connect_all;
use crate::load::component::Router;
use crate::load::cpu;
use crate::load::engine::Timing;
use crate::load::figures::{Figures, Latency, Meter};
use crate::load::link::Link;
use crate::load::people::{People, WAIT_MS};
use crate::load::poll::Poll;
use std::time::{Duration, Instant};

/// `jidmesh load logins`: users log in (start, started, first presence) and out (end, ended). As many are logged in as
/// `--online` says; with more, the one who came first leaves.
#[derive(clap::Args, Clone, Debug)]
pub(in crate::load) struct LoginsArgs {
    /// Users who are logged in at most.
    #[arg(long, default_value_t = 10_000)]
    pub(in crate::load) online: usize,
    /// Logins a second (open loop); without it as fast as it goes.
    #[arg(long, value_name = "PER_S")]
    pub(in crate::load) rate: Option<f64>,
    /// Logins and logouts on their way at most.
    #[arg(long, default_value_t = 1000)]
    pub(in crate::load) window: u64,
    /// Simulated sm.
    #[arg(long, default_value_t = 4)]
    pub(in crate::load) sm: usize,
    /// Simulated c2s.
    #[arg(long, default_value_t = 4)]
    pub(in crate::load) c2s: usize,
}

/// The scene: components and users.
#[derive(Debug)]
pub(in crate::load) struct Storm {
    args: LoginsArgs,
    links: Vec<Link>,
    people: People,
    poll: Poll,
    cpu: Option<usize>,
    /// Users who have come and gone, in turn.
    came: usize,
    went: usize,
}

impl Storm {
    pub(in crate::load) fn new(args: &LoginsArgs, routers: &[Router], cpu: Option<usize>) -> Result<Storm, String> {
        if args.online == 0 || args.window == 0 || args.sm == 0 || args.c2s == 0 {
            return Err("there must be an sm, a c2s, a user and a window".into());
        }
        let (links, c2s) = connect_all(args.sm, args.c2s, routers)?;
        // Twice as many as are online: who comes again has been away for a while.
        let people = People::new(2 * args.online + args.window as usize, &links, &c2s);
        let mut poll = Poll::new()?;
        for link in &links {
            poll.add(link.fd(), true)?;
        }
        Ok(Storm {
            args: args.clone(),
            links,
            people,
            poll,
            cpu,
            came: 0,
            went: 0,
        })
    }

    pub(in crate::load) fn name(&self) -> String {
        match self.args.rate {
            Some(rate) => format!("logins and logouts, {rate:.0} logins/s, {} online", self.args.online),
            None => format!("logins and logouts, {} online", self.args.online),
        }
    }

    /// Warms up, then measures. `pids`: the router's processes.
    pub(in crate::load) fn measure(&mut self, pids: &[u32], timing: &Timing) -> Result<Figures, String> {
        cpu::pin(self.cpu)?;
        self.run(timing.warm_up_s, false)?;
        self.people.login.reset();
        self.people.logout.reset();
        let (frames, bytes, came) = (self.people.frames, self.people.bytes, self.came);
        let own = cpu::own_thread_ns();
        let meter = Meter::start(pids)?;
        self.run(timing.seconds, timing.progress)?;
        let own = (cpu::own_thread_ns() - own) as f64 / 1e9;
        let mut figures = meter.stop(self.people.frames - frames, self.people.bytes - bytes, own, 1)?;
        figures.workload = self.name();
        figures.logins_per_s = Some((self.came - came) as f64 / figures.seconds);
        figures.latency = vec![
            Latency::of("login", &self.people.login),
            Latency::of("logout", &self.people.logout),
        ];
        Ok(figures)
    }

    /// Lets users come and go for so long, then waits until all is done.
    fn run(&mut self, seconds: f64, progress: bool) -> Result<(), String> {
        let (start, mut told, before) = (Instant::now(), Instant::now(), self.came);
        loop {
            let elapsed = start.elapsed().as_secs_f64();
            let due = match self.args.rate {
                Some(rate) => (elapsed.min(seconds) * rate) as usize,
                None => usize::MAX,
            };
            while elapsed < seconds && self.came - before < due && self.people.in_flight < self.args.window {
                let late_us = match self.args.rate {
                    Some(rate) => ((elapsed - (self.came - before) as f64 / rate) * 1e6).max(0.0) as u64,
                    None => 0,
                };
                if !self.one_comes(late_us) {
                    break;
                }
            }
            if elapsed >= seconds && self.people.in_flight == 0 {
                return Ok(());
            }
            let wait_ms = if self.args.rate.is_some() { 1 } else { WAIT_MS };
            self.people.turn(&mut self.links, &mut self.poll, wait_ms)?;
            if progress && told.elapsed() > Duration::from_secs(1) {
                told = Instant::now();
                eprintln!("{elapsed:.0} s, {:.0} logins/s", (self.came - before) as f64 / elapsed);
            }
        }
    }

    /// One user logs in; when there are enough, another logs out. False: they have to wait for others.
    fn one_comes(&mut self, late_us: u64) -> bool {
        let count = self.people.count();
        let (next, first) = (self.came % count, self.went % count);
        if !self.people.is_out(next) {
            return false;
        }
        if self.came - self.went >= self.args.online {
            if !self.people.is_in(first) {
                return false;
            }
            self.people.log_out(first, &mut self.links);
            self.went += 1;
        }
        self.people.log_in(next, late_us, &mut self.links);
        self.came += 1;
        true
    }
}
