//! One component that asks too much, or takes too little, beside others that behave.

use super::Sending;
use super::pairs::{self, PipeArgs};
use crate::load::component::Router;
use crate::load::link::Link;
use crate::load::plan::{Pace, Plan, Reading};

/// `jidmesh load fair`: polite pairs of components beside one that floods, reads slowly, or reads nothing. What matters
/// is the latency of the polite ones, and the router's memory.
#[derive(clap::Args, Clone, Debug)]
pub(in crate::load) struct FairArgs {
    /// What the first pair does.
    #[arg(value_enum)]
    pub(in crate::load) bully: Bully,
    /// Bytes per frame.
    #[arg(long, default_value_t = 265)]
    pub(in crate::load) bytes: usize,
    /// Polite pairs.
    #[arg(long, default_value_t = 1)]
    pub(in crate::load) pairs: usize,
    /// Frames a second of all polite pairs together, one frame a write.
    #[arg(long, default_value_t = 1000.0, value_name = "PER_S")]
    pub(in crate::load) rate: f64,
    /// Frames a second to the receiver that reads slowly, or nothing.
    #[arg(long, default_value_t = 20_000.0, value_name = "PER_S")]
    pub(in crate::load) pressure: f64,
    /// Bytes a second that the slow receiver takes.
    #[arg(long, default_value_t = 100_000.0, value_name = "BYTES")]
    pub(in crate::load) slow: f64,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::load) enum Bully {
    /// Nobody misbehaves: what to compare with.
    None,
    /// One sends as fast as it goes.
    Flood,
    /// One receiver reads slowly.
    Slow,
    /// One receiver reads nothing.
    Stopped,
}

/// The bully is the last pair, the polite ones stand before it: `latency[0]` is theirs.
pub(in crate::load) fn fair(args: &FairArgs, routers: &[Router]) -> Result<(Plan, Vec<Link>), String> {
    let pairs = args.pairs.max(1) + 1;
    let pipe = PipeArgs {
        bytes: Vec::new(),
        pairs,
        foreign: false,
        users: false,
        sending: Sending {
            single: true,
            ..Sending::default()
        },
    };
    let (mut plan, links) = pairs::pipe(&pipe, args.bytes, routers)?;
    plan.name = match args.bully {
        Bully::None => "polite links alone".into(),
        Bully::Flood => "polite links beside a flood".into(),
        Bully::Slow => format!("polite links beside a receiver of {:.0} kB/s", args.slow / 1e3),
        Bully::Stopped => "polite links beside a receiver that stopped".into(),
    };
    plan.groups = vec!["polite".into(), "bully".into()];
    for lane in &mut plan.lanes {
        lane.pace = Pace::Rate {
            per_s: args.rate / args.pairs.max(1) as f64,
        };
    }
    let receiver = plan.reading.len() - 1;
    let mut bully = plan.lanes.pop().ok_or("no pairs")?;
    bully.group = 1;
    bully.pace = Pace::Rate { per_s: args.pressure };
    match args.bully {
        Bully::None => {
            plan.groups.pop();
            return Ok((plan, links));
        }
        Bully::Flood => {
            // Its writes are large: a flood is not made of single frames.
            plan.write_bytes = Some(64 << 10);
            bully.pace = Pace::Flat {
                window: ((4 << 20) / args.bytes).max(1) as u64,
            };
        }
        Bully::Slow => {
            bully.lossy = true;
            plan.reading[receiver] = Reading::Slowly { bytes_per_s: args.slow };
        }
        Bully::Stopped => {
            bully.lossy = true;
            plan.reading[receiver] = Reading::Never;
        }
    }
    plan.lanes.push(bully);
    Ok((plan, links))
}
