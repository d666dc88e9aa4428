//! The workloads: each connects its components and makes a plan.
//!
//! For: traffic that real components make, one kind a file. Invariants: a workload is the same at every run (its random
//! choices have fixed seeds), and every frame of it can be checked. Must never be added: threads, clocks, figures.

pub(super) mod fair;
pub(super) mod logins;
pub(super) mod pairs;
pub(super) mod users;

use super::book::Spec;
use super::component::{Component, Names, Router};
use super::link::Link;
use super::plan::{Pace, Plan};

/// How frames are sent, whatever they are.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Sending {
    /// Frames a second, all lanes together (open loop); without it as fast as it goes.
    #[arg(long, value_name = "PER_S")]
    pub(super) rate: Option<f64>,
    /// Bytes on their way at most, all lanes together, when it goes as fast as it goes.
    #[arg(long, default_value_t = 4 << 20, value_name = "BYTES")]
    pub(super) window: usize,
    /// Bytes per write, in whole frames.
    #[arg(long, default_value_t = 64 << 10, value_name = "BYTES")]
    pub(super) write: usize,
    /// One frame per write, as jabberd2's components do it.
    #[arg(long, conflicts_with = "write")]
    pub(super) single: bool,
}

impl Default for Sending {
    fn default() -> Sending {
        Sending {
            rate: None,
            window: 4 << 20,
            write: 64 << 10,
            single: false,
        }
    }
}

impl Sending {
    pub(super) fn write_bytes(&self) -> Option<usize> {
        (!self.single).then_some(self.write)
    }

    /// What one of `lanes` does, whose frames have so many bytes.
    pub(super) fn pace(&self, lanes: usize, frame_bytes: usize) -> Pace {
        match self.rate {
            Some(rate) => Pace::Rate {
                per_s: rate / lanes as f64,
            },
            None => Pace::Flat {
                window: (self.window / lanes / frame_bytes.max(1)).max(1) as u64,
            },
        }
    }

    /// Settles what all lanes of a plan do, by the mean of their frames.
    pub(super) fn pace_all(&self, plan: &mut Plan) {
        let lanes = plan.lanes.len();
        for lane in &mut plan.lanes {
            let bytes: usize = lane.order.iter().map(|recipe| plan.book.len(*recipe)).sum();
            lane.pace = self.pace(lanes, bytes / lane.order.len());
        }
    }
}

/// Connects components; the routers are dealt to them in turn, so that several nodes share them.
pub(super) fn connect(routers: &[Router], names: Vec<Names>) -> Result<Vec<Link>, String> {
    let one = |(at, names)| Component::connect(&routers[at % routers.len()], names).map(Link::new);
    let links = names.into_iter().enumerate().map(one).collect();
    if routers.len() > 1 {
        // What is bound at one node is known at the others a moment later.
        std::thread::sleep(KNOWN_TO_ALL);
    }
    links
}

/// Nodes of one mesh tell one another of a new component within so long.
const KNOWN_TO_ALL: std::time::Duration = std::time::Duration::from_millis(500);

/// A message from component to component.
fn plain<'a>(route: (&'a str, &'a str), from: &'a str, to: &'a str, tail: super::book::Piece) -> Spec<'a> {
    Spec {
        route: Some(route),
        element: "message",
        kind: None,
        from: Some(from),
        to: Some(to),
        session: None,
        tail,
        lane: 0,
        source: 0,
        dest: 0,
        then: 0..0,
    }
}
