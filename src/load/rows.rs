//! The rows of the comparison.

use super::component::Router;
use super::engine::{Engine, Timing};
use super::figures::Figures;
use super::workload::Sending;
use super::workload::fair::{self, Bully, FairArgs};
use super::workload::logins::{LoginsArgs, Storm};
use super::workload::pairs::{self, PingArgs, PipeArgs};
use super::workload::users::{self, UsersArgs};

/// Names of rows, for `--rows`.
pub(super) const KEYS: [&str; 11] = [
    "pipe", "users", "whole", "single", "ping", "flood", "slow", "logins", "large", "links", "shards",
];

/// A row of the table: a workload, and who is measured.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) key: &'static str,
    pub(super) scene: Scene,
    pub(super) who: Who,
}

/// Which routers a row compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// The stock router and jidmesh.
    Routers,
    /// These and a dumb relay, for so many pairs.
    WithRelay { pairs: usize },
    /// jidmesh with one shard, and with more.
    Shards,
}

#[derive(Debug)]
pub(super) enum Scene {
    Pipe(PipeArgs, usize),
    Ping(PingArgs, usize),
    Users(UsersArgs),
    Fair(FairArgs),
    Logins(LoginsArgs),
}

/// The rows, in the order of the table.
pub(super) fn all(sessions: usize) -> Vec<Row> {
    let row = |key, who, scene| Row { key, scene, who };
    let two = Who::WithRelay { pairs: 1 };
    let mut rows = Vec::new();
    for bytes in [265, 1 << 10, 16 << 10] {
        rows.push(row("pipe", two, pipe(1, bytes, false)));
    }
    rows.push(row("users", Who::Routers, users(sessions, 12, 4, false)));
    rows.push(row("whole", Who::Routers, users(sessions, 12, 4, true)));
    rows.push(row("single", Who::WithRelay { pairs: 32 }, pipe(32, 265, true)));
    for bytes in [265, 1 << 10, 16 << 10] {
        let args = PingArgs {
            bytes: Vec::new(),
            pairs: 1,
            users: false,
        };
        rows.push(row("ping", two, Scene::Ping(args, bytes)));
    }
    for bully in [Bully::None, Bully::Flood] {
        rows.push(row("flood", Who::Routers, fair(bully)));
    }
    for bully in [Bully::Slow, Bully::Stopped] {
        rows.push(row("slow", Who::Routers, fair(bully)));
    }
    rows.push(row("logins", Who::Routers, logins(sessions)));
    rows.push(row("large", two, pipe(1, 1 << 20, false)));
    rows.push(row("links", Who::WithRelay { pairs: 256 }, pipe(256, 265, false)));
    rows.push(row("shards", Who::Shards, users(sessions, 48, 16, false)));
    rows
}

/// What settings are compared by: one frame a write on 64 links, users' traffic, and one frame on its way.
pub(super) fn tuning_scenes() -> [(&'static str, Scene); 3] {
    let ping = PingArgs {
        bytes: Vec::new(),
        pairs: 1,
        users: false,
    };
    [
        ("64 links, one frame a write", pipe(32, 265, true)),
        ("20 000 users", users(20_000, 12, 4, true)),
        ("one frame on its way", Scene::Ping(ping, 265)),
    ]
}

fn pipe(pairs: usize, bytes: usize, single: bool) -> Scene {
    let args = PipeArgs {
        bytes: Vec::new(),
        pairs,
        foreign: false,
        users: false,
        sending: Sending {
            single,
            ..Sending::default()
        },
    };
    Scene::Pipe(args, bytes)
}

fn users(sessions: usize, sm: usize, c2s: usize, whole: bool) -> Scene {
    Scene::Users(UsersArgs {
        sessions,
        active: sessions.min(10_000),
        skew: 1.0,
        sm,
        c2s,
        whole,
        redirects: false,
        sending: Sending::default(),
    })
}

fn fair(bully: Bully) -> Scene {
    Scene::Fair(FairArgs {
        bully,
        bytes: 265,
        pairs: 1,
        rate: 1000.0,
        pressure: 20_000.0,
        slow: 100_000.0,
    })
}

fn logins(sessions: usize) -> Scene {
    Scene::Logins(LoginsArgs {
        online: sessions.min(100_000),
        rate: None,
        window: 1000,
        sm: 4,
        c2s: 4,
    })
}

/// A scene that is set, at one router.
#[derive(Debug)]
pub(super) enum Stage {
    Engine(Box<Engine>),
    Storm(Box<Storm>),
}

impl Stage {
    /// Connects the components, logs in who must be; `cpus` are the generator's.
    pub(super) fn set(scene: &Scene, router: Router, cpus: &[usize], progress: bool) -> Result<Stage, String> {
        let routers = [router];
        let (plan, links) = match scene {
            Scene::Pipe(args, bytes) => pairs::pipe(args, *bytes, &routers)?,
            Scene::Ping(args, bytes) => pairs::ping(args, *bytes, &routers)?,
            Scene::Users(args) => users::users(args, &routers, progress)?,
            Scene::Fair(args) => fair::fair(args, &routers)?,
            Scene::Logins(args) => {
                let storm = Storm::new(args, &routers, cpus.first().copied())?;
                return Ok(Stage::Storm(Box::new(storm)));
            }
        };
        Ok(Stage::Engine(Box::new(Engine::new(plan, links, cpus)?)))
    }

    pub(super) fn name(&self) -> String {
        match self {
            Stage::Engine(engine) => engine.plan.name.clone(),
            Stage::Storm(storm) => storm.name(),
        }
    }

    pub(super) fn measure(&mut self, pids: &[u32], timing: &Timing) -> Result<Figures, String> {
        match self {
            Stage::Engine(engine) => engine.measure(pids, timing),
            Stage::Storm(storm) => storm.measure(pids, timing),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_can_be_named() {
        let rows = all(10);
        assert!(rows.iter().all(|row| KEYS.contains(&row.key)));
        assert!(KEYS.iter().all(|key| rows.iter().any(|row| row.key == *key)));
    }
}
