//! Compares values of one setting after the other, each with what was found best before.

use super::super::How;
use super::super::figures::Figures;
use super::super::rows::{Scene, Stage, tuning_scenes};
use super::super::server::{Folder, Kind, Server};
use super::super::table::Spread;
use super::Goal;
use super::machine::Machine;
use super::profile;
use crate::config::{Basis, DriverKind, Shards, Tuning, cpu_text};
use std::path::PathBuf;

/// A value must be better by so much to take the place of the usual one.
const BETTER: f64 = 0.05;
/// What it may make worse, where that is not what counts: CPU per frame or latency.
const WORSE: f64 = 0.25;

/// A setting and the values that are compared; the first is the usual one.
struct Knob {
    name: &'static str,
    values: Vec<(String, Tuning)>,
}

/// What one setting's comparison came to.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) knob: &'static str,
    /// Name of the value, and its median and spread in each scene.
    pub(super) candidates: Vec<(String, Vec<Measured>)>,
    /// Which one was chosen.
    pub(super) chosen: usize,
}

/// One candidate in one scene.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) scene: &'static str,
    pub(super) cpu_s_per_million: Spread,
    pub(super) frames_per_s: Spread,
    pub(super) p99_us: Spread,
}

/// The settings that were found best, and all that was measured.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) tuning: Tuning,
    pub(super) findings: Vec<Finding>,
}

pub(super) struct Search<'m> {
    machine: &'m Machine,
    goal: Goal,
    runs: usize,
    how: How,
    program: PathBuf,
    folder: Folder,
}

impl<'m> Search<'m> {
    pub(super) fn new(machine: &'m Machine, goal: Goal, runs: usize, how: &How) -> Result<Search<'m>, String> {
        let mut how = how.clone();
        how.cpu = machine.cpus[machine.cpus.len() - generators(machine)..].to_vec();
        Ok(Search {
            machine,
            goal,
            runs,
            how,
            program: std::env::current_exe().map_err(|e| format!("where is this program? {e}"))?,
            folder: Folder::new()?,
        })
    }

    pub(super) fn run(&self, usual: Tuning) -> Result<Found, String> {
        let (mut tuning, mut findings) = (usual, Vec::new());
        for knob in [shards, driver, pause, read] {
            let knob = knob(&tuning, self.machine);
            if knob.values.len() < 2 {
                continue;
            }
            let finding = self.compare(&knob)?;
            tuning = knob.values[finding.chosen].1.clone();
            println!("\n{}", profile::finding(&finding, self.goal));
            findings.push(finding);
        }
        tuning.basis = Basis::Measured;
        Ok(Found { tuning, findings })
    }

    fn compare(&self, knob: &Knob) -> Result<Finding, String> {
        let mut candidates: Vec<(String, Vec<Measured>)> = Vec::new();
        let mut rounds: Vec<Vec<Vec<f64>>> = Vec::new();
        for (name, _) in &knob.values {
            candidates.push((name.clone(), Vec::new()));
            rounds.push(Vec::new());
        }
        for (scene_name, scene) in tuning_scenes() {
            let all = self.scene(knob, scene_name, &scene)?;
            for (at, figures) in all.into_iter().enumerate() {
                rounds[at].push(figures.iter().map(|f| cost(self.goal, f)).collect());
                candidates[at].1.push(measured(scene_name, &figures));
            }
        }
        let chosen = choose(self.goal, &rounds, &candidates);
        Ok(Finding {
            knob: knob.name,
            candidates,
            chosen,
        })
    }

    /// One scene at all candidates, which take turns.
    fn scene(&self, knob: &Knob, scene_name: &str, scene: &Scene) -> Result<Vec<Vec<Figures>>, String> {
        let mut sides = Vec::new();
        for (at, (_, tuning)) in knob.values.iter().enumerate() {
            let path = self.folder.write(&format!("{at}.xml"), &profile::element(tuning))?;
            let kind = Kind::Jidmesh {
                program: self.program.clone(),
                name: format!("candidate-{at}"),
                tuning: format!("<tuning>{}</tuning>", path.display()),
            };
            let server = Server::start(&kind, &self.folder, &cpu_text(&self.machine.cpus))?;
            let stage = Stage::set(scene, server.router(), &self.how.cpu, false)?;
            sides.push((server, stage, Vec::new()));
        }
        for run in 0..self.runs {
            for (at, (server, stage, figures)) in sides.iter_mut().enumerate() {
                if self.how.progress() {
                    let name = &knob.values[at].0;
                    eprintln!("{}: {scene_name}, run {} of {}, {name}", knob.name, run + 1, self.runs);
                }
                let measured = stage.measure(&[server.pid()], &self.how.timing());
                figures.push(measured.map_err(|e| format!("{}: {e}{}", server.name, server.log_tail()))?);
            }
        }
        Ok(sides.into_iter().map(|(_, _, figures)| figures).collect())
    }
}

/// What counts against a candidate, in one run.
fn cost(goal: Goal, figures: &Figures) -> f64 {
    match goal {
        Goal::Cpu => figures.server_cpu_s_per_million.unwrap_or(f64::INFINITY),
        Goal::Frames => 1.0 / figures.frames_per_s.max(1e-9),
        Goal::Latency => figures.latency.first().map_or(f64::INFINITY, |latency| latency.p99_us),
    }
}

fn measured(scene: &'static str, runs: &[Figures]) -> Measured {
    Measured {
        scene,
        cpu_s_per_million: Spread::of(runs.iter().map(|f| f.server_cpu_s_per_million.unwrap_or(0.0))),
        frames_per_s: Spread::of(runs.iter().map(|f| f.frames_per_s)),
        p99_us: Spread::of(
            runs.iter()
                .map(|f| f.latency.first().map_or(0.0, |latency| latency.p99_us)),
        ),
    }
}

/// The candidate that beats the usual one (the first) by [`BETTER`] over all scenes in the median, and in all runs but
/// one of five; the best of those. `rounds`: candidate, scene, run.
fn choose(goal: Goal, rounds: &[Vec<Vec<f64>>], candidates: &[(String, Vec<Measured>)]) -> usize {
    let runs = rounds[0][0].len();
    let ratio = |at: usize, run: usize| {
        let scenes = rounds[at].iter().zip(&rounds[0]);
        let logs = scenes.map(|(own, usual)| (own[run] / usual[run]).ln());
        (logs.sum::<f64>() / rounds[at].len() as f64).exp()
    };
    let mut best = (0, 1.0);
    for at in 1..rounds.len() {
        let ratios: Vec<f64> = (0..runs).map(|run| ratio(at, run)).collect();
        let wins = ratios.iter().filter(|ratio| **ratio < 1.0).count();
        let median = Spread::of(ratios.into_iter()).median;
        let spares = spares_the_rest(goal, &candidates[at].1, &candidates[0].1);
        if median < 1.0 - BETTER && median < best.1 && wins + runs / 5 >= runs && spares {
            best = (at, median);
        }
    }
    best.0
}

/// Whether what does not count is not made much worse.
fn spares_the_rest(goal: Goal, own: &[Measured], usual: &[Measured]) -> bool {
    own.iter().zip(usual).all(|(own, usual)| {
        let cpu = own.cpu_s_per_million.median / usual.cpu_s_per_million.median.max(1e-9);
        let p99 = own.p99_us.median / usual.p99_us.median.max(1e-9);
        (goal == Goal::Latency || p99 <= 1.0 + WORSE) && (goal != Goal::Frames || cpu <= 1.0 + WORSE)
    })
}

fn with(tuning: &Tuning, change: impl FnOnce(&mut Tuning)) -> Tuning {
    let mut other = tuning.clone();
    change(&mut other);
    other
}

/// CPUs of the generator: the second half; with an odd one fewer.
fn generators(machine: &Machine) -> usize {
    (machine.cpus.len() / 2).max(1)
}

/// One, then twice as many, as long as the generator's CPUs are left alone (two CPUs: two shards, which share one with it).
fn shards(tuning: &Tuning, machine: &Machine) -> Knob {
    let most = (machine.cpus.len() - generators(machine))
        .min(machine.cores.len())
        .max(2) as u16;
    let counts = (0..10)
        .map(|power| 1_u16 << power)
        .filter(|count| *count == 1 || *count <= most);
    let value = |count: u16| {
        let tuning = with(tuning, |tuning| tuning.shards = Shards::Count(count));
        (count.to_string(), tuning)
    };
    Knob {
        name: "shards",
        values: counts.map(value).collect(),
    }
}

fn driver(tuning: &Tuning, machine: &Machine) -> Knob {
    let mut kinds = vec![("readiness", DriverKind::Readiness)];
    if machine.ring.is_ok() {
        kinds.push(("ring", DriverKind::Ring));
    }
    let value = |(name, kind): (&str, DriverKind)| (name.to_owned(), with(tuning, |tuning| tuning.driver = kind));
    Knob {
        name: "driver",
        values: kinds.into_iter().map(value).collect(),
    }
}

fn pause(tuning: &Tuning, _: &Machine) -> Knob {
    let value = |us: u64| (us.to_string(), with(tuning, |tuning| tuning.pause_us = us));
    Knob {
        name: "pause-us",
        values: [60, 0, 150].into_iter().map(value).collect(),
    }
}

fn read(tuning: &Tuning, _: &Machine) -> Knob {
    let value = |kib: usize| {
        (
            format!("{}", kib << 10),
            with(tuning, |tuning| tuning.read_bytes = kib << 10),
        )
    };
    Knob {
        name: "read-bytes",
        values: [64, 16, 256].into_iter().map(value).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(value: f64) -> Spread {
        Spread::of([value].into_iter())
    }

    fn candidate(cpu: f64, p99: f64) -> (String, Vec<Measured>) {
        let measured = Measured {
            scene: "s",
            cpu_s_per_million: spread(cpu),
            frames_per_s: spread(1.0),
            p99_us: spread(p99),
        };
        (String::new(), vec![measured])
    }

    fn chosen(costs: &[[f64; 5]], p99: &[f64]) -> usize {
        let rounds: Vec<Vec<Vec<f64>>> = costs.iter().map(|runs| vec![runs.to_vec()]).collect();
        let candidates: Vec<_> = costs
            .iter()
            .zip(p99)
            .map(|(runs, p99)| candidate(runs[2], *p99))
            .collect();
        choose(Goal::Cpu, &rounds, &candidates)
    }

    #[test]
    fn the_usual_value_stays_unless_another_is_better_again_and_again() {
        let usual = [1.0; 5];
        assert_eq!(chosen(&[usual, [0.97; 5]], &[1.0, 1.0]), 0, "not better by enough");
        assert_eq!(
            chosen(&[usual, [0.8, 0.8, 0.8, 1.2, 1.2]], &[1.0, 1.0]),
            0,
            "not often enough"
        );
        assert_eq!(chosen(&[usual, [0.8, 0.8, 0.8, 0.8, 1.2]], &[1.0, 1.0]), 1);
        assert_eq!(chosen(&[usual, [0.8; 5], [0.7; 5]], &[1.0, 1.0, 1.0]), 2, "the best");
        assert_eq!(chosen(&[usual, [0.8; 5]], &[1.0, 1.5]), 0, "at the price of latency");
    }
}
