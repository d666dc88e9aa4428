//! What samples of all frames came to, over all shards: times by path, and who has the most frames.

use super::gather::Reports;
use crate::node::cluster::{Answer, Question};
use crate::node::trace::{SamplePath, Sampled, Sketch, Window};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::HashMap;

/// Entries of a list of the busiest.
const BUSIEST_MAX: usize = 8;
/// Whoever has less than so many percent of all frames is not among the busiest.
const BUSY_PERCENT: u64 = 1;

/// The frames of the last 10 to 20 s, or since samples are taken, as far as samples tell.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Samples {
    /// For so long, microseconds.
    pub(super) covered_us: u64,
    /// Frames that came, a second.
    pub(super) frames_per_s: u64,
    /// Frames that were followed.
    pub(super) samples: u64,
    /// Frames that were handed over, by path; those of which there were some.
    pub(super) paths: Vec<PathTimes>,
    /// Users and services that stanzas are from, and to, the busiest first.
    pub(super) jids_from: Vec<Busy>,
    pub(super) jids_to: Vec<Busy>,
    /// Names of components that frames are from, and to.
    pub(super) names_from: Vec<Busy>,
    pub(super) names_to: Vec<Busy>,
}

/// How long frames were in this node.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct PathTimes {
    /// Its name.
    pub(super) path: String,
    pub(super) frames_per_s: u64,
    /// From the read that brought a frame to the write that handed it over.
    pub(super) p50_us: u64,
    pub(super) p99_us: u64,
    /// The longest of the samples.
    pub(super) max_us: u64,
}

/// Somebody's frames.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Busy {
    /// Bare JID, or name.
    pub(super) who: String,
    /// At least.
    pub(super) frames_per_s: u64,
}

/// Has samples taken by all shards, and tells what they came to.
pub(super) fn samples(reports: &Reports) -> Samples {
    let answers = reports.ask(&Question::Sample).into_iter();
    let shards: Vec<Box<Sampled>> = answers
        .filter_map(|answer| match answer {
            Answer::Sample(sampled) => Some(sampled),
            _ => None,
        })
        .collect();
    let covered_us = shards.iter().map(|shard| shard.covered_us).max().unwrap_or_default();
    if covered_us == 0 {
        return Samples::default();
    }
    let windows = || shards.iter().flat_map(|shard| &shard.windows);
    let rate = Rate { covered_us };
    let frames: u64 = windows().map(|window| window.frames).sum();
    let least = (frames * BUSY_PERCENT).div_ceil(100);
    let busiest = |of: fn(&Window) -> &Sketch| rate.busiest(windows().map(of), least);
    Samples {
        covered_us,
        frames_per_s: rate.of(frames),
        samples: windows().map(|window| window.samples).sum(),
        paths: SamplePath::ALL
            .iter()
            .filter_map(|&path| rate.times(path, windows()))
            .collect(),
        jids_from: busiest(|window| &window.jids[0]),
        jids_to: busiest(|window| &window.jids[1]),
        names_from: busiest(|window| &window.names[0]),
        names_to: busiest(|window| &window.names[1]),
    }
}

/// Makes rates of what was counted in a time.
struct Rate {
    covered_us: u64,
}

impl Rate {
    fn of(&self, frames: u64) -> u64 {
        let per_s = (u128::from(frames) * 1_000_000 + u128::from(self.covered_us) / 2) / u128::from(self.covered_us);
        per_s.try_into().unwrap_or(u64::MAX)
    }

    fn times<'a>(&self, path: SamplePath, windows: impl Iterator<Item = &'a Window>) -> Option<PathTimes> {
        let mut parts = windows.map(|window| &window.times_us[path as usize]);
        let mut all: Histogram<u64> = parts.next()?.clone();
        // All have the same bounds.
        parts.for_each(|part| all.add(part).unwrap_or_default());
        (!all.is_empty()).then(|| PathTimes {
            path: name(path).to_owned(),
            frames_per_s: self.of(all.len()),
            p50_us: all.value_at_quantile(0.5),
            p99_us: all.value_at_quantile(0.99),
            max_us: all.max(),
        })
    }

    fn busiest<'a>(&self, sketches: impl Iterator<Item = &'a Sketch>, least: u64) -> Vec<Busy> {
        let mut frames = HashMap::<&str, u64>::new();
        for (key, certain) in sketches.flat_map(|sketch| sketch.certain()) {
            *frames.entry(key).or_default() += certain;
        }
        let mut found: Vec<_> = frames.into_iter().filter(|(_, frames)| *frames >= least).collect();
        found.sort_unstable_by_key(|(key, frames)| (Reverse(*frames), *key));
        found.truncate(BUSIEST_MAX);
        let busy = |(key, frames): (&str, u64)| Busy {
            who: key.to_owned(),
            frames_per_s: self.of(frames),
        };
        found.into_iter().map(busy).collect()
    }
}

fn name(path: SamplePath) -> &'static str {
    match path {
        SamplePath::Here => "here",
        SamplePath::Redirect => "redirect",
        SamplePath::ToNode => "to node",
        SamplePath::FromNode => "from node",
        SamplePath::Uplink => "uplink",
    }
}
