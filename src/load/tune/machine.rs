//! What this machine is.

use crate::config::{Cpus, cpu_list};
use std::fmt::Write;
use std::fs;

/// As far as settings depend on it.
#[derive(Debug)]
pub(super) struct Machine {
    /// What the kernel calls the CPU.
    pub(super) model: String,
    /// The CPUs that this process may use.
    pub(super) cpus: Vec<usize>,
    /// Of those, one of each physical core.
    pub(super) cores: Vec<usize>,
    /// NUMA nodes.
    numa: usize,
    /// MB.
    pub(super) memory_mb: u64,
    pub(super) kernel: String,
    /// A shard may have a completion ring of its own; else why not.
    pub(super) ring: Result<(), String>,
}

impl Machine {
    pub(super) fn look() -> Result<Machine, String> {
        let cpus = crate::shell::chosen_cpus(&Cpus::All)?;
        let cores = cpus
            .iter()
            .copied()
            .filter(|&cpu| is_first_thread(cpu, &cpus))
            .collect();
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kb = field(&meminfo, "MemTotal:").and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let online = fs::read_to_string("/sys/devices/system/node/online").ok();
        Ok(Machine {
            model: model
                .map_or("unknown CPU", |text| text.trim_matches([' ', '\t', ':']))
                .to_owned(),
            cpus,
            cores,
            numa: online.and_then(|text| cpu_list(&text)).map_or(1, |nodes| nodes.len()),
            memory_mb: kb.unwrap_or(0) / 1024,
            kernel: kernel.trim().to_owned(),
            ring: crate::shell::completion_ring(),
        })
    }

    pub(super) fn shown(&self) -> String {
        let mut text = String::new();
        let (cpus, cores) = (self.cpus.len(), self.cores.len());
        let ring = match &self.ring {
            Ok(()) => "yes".to_owned(),
            Err(why) => format!("no: {why}"),
        };
        let _ = writeln!(text, "machine          {}", self.model);
        let _ = writeln!(
            text,
            "CPUs             {cpus} that this process may use, on {cores} cores, {} NUMA node(s)",
            self.numa
        );
        let _ = writeln!(text, "memory           {} MB", self.memory_mb);
        let _ = writeln!(text, "kernel           Linux {}", self.kernel);
        let _ = writeln!(text, "completion ring  {ring}");
        text
    }
}

/// What stands behind a word at the beginning of a line.
pub(super) fn field<'t>(text: &'t str, word: &str) -> Option<&'t str> {
    text.lines().find_map(|line| line.strip_prefix(word)).map(str::trim)
}

/// Whether no lower CPU of `cpus` is a thread of the same core.
fn is_first_thread(cpu: usize, cpus: &[usize]) -> bool {
    let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
    let siblings = fs::read_to_string(path).ok().and_then(|text| cpu_list(&text));
    let first = siblings.and_then(|list| list.into_iter().filter(|other| cpus.contains(other)).min());
    first.is_none_or(|first| first == cpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_core_for_each_of_its_threads_at_most() {
        let machine = Machine::look().expect("Linux");
        assert!(!machine.cores.is_empty() && machine.cores.len() <= machine.cpus.len());
        assert!(machine.memory_mb > 0 && !machine.kernel.is_empty());
    }
}
