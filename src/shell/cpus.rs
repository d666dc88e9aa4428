//! Which CPUs the shards run on.

use super::sys;
use crate::config::{Cpus, Shards, Tuning, cpu_list, cpu_text};

/// Shards of `auto` at most: each does the work of several stock routers.
const SHARDS_AUTO_MAX: usize = 8;

/// The CPUs that `<tuning>` means, in its order, never none; an error says which of them this process may not use.
pub fn chosen(cpus: &Cpus) -> Result<Vec<usize>, String> {
    let allowed = sys::allowed_cpus();
    let wanted = match cpus {
        Cpus::All => return Ok(allowed),
        Cpus::List(list) => list.clone(),
        Cpus::Numa(node) => of_numa_node(*node)?,
    };
    let denied: Vec<usize> = wanted.iter().copied().filter(|cpu| !allowed.contains(cpu)).collect();
    if denied.is_empty() {
        return Ok(wanted);
    }
    let (denied, allowed) = (cpu_text(&denied), cpu_text(&allowed));
    Err(format!(
        "<tuning>: this process may not use CPU {denied} of <cpus>; it may use {allowed}"
    ))
}

/// How many shards: where CPUs were named, one for each; else half of those there are, as the components need the rest.
pub(crate) fn shards(tuning: &Tuning, cpus: &[usize]) -> u16 {
    match (tuning.shards, &tuning.cpus) {
        (Shards::Count(count), _) => count.max(1),
        (Shards::Auto, Cpus::All) => (cpus.len() / 2).clamp(1, SHARDS_AUTO_MAX) as u16,
        (Shards::Auto, _) => u16::try_from(cpus.len()).unwrap_or(u16::MAX),
    }
}

fn of_numa_node(node: u32) -> Result<Vec<usize>, String> {
    let path = format!("/sys/devices/system/node/node{node}/cpulist");
    let text = std::fs::read_to_string(&path).map_err(|_| format!("<tuning>: there is no NUMA node {node}"))?;
    match cpu_list(&text) {
        Some(list) if !list.is_empty() => Ok(list),
        _ => Err(format!("<tuning>: NUMA node {node} has no CPUs")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_that_is_not_ours_is_named() {
        let why = chosen(&Cpus::List(vec![0, 1023])).expect_err("no machine has it");
        assert!(why.contains("1023"), "{why}");
        assert!(chosen(&Cpus::Numa(4_000_000)).is_err());
    }

    #[test]
    fn half_of_the_machine_unless_cpus_were_named() {
        let mut tuning = Tuning::default();
        assert_eq!(shards(&tuning, &[0]), 1);
        assert_eq!(shards(&tuning, &(0..6).collect::<Vec<_>>()), 3);
        assert_eq!(shards(&tuning, &(0..64).collect::<Vec<_>>()), 8);
        tuning.cpus = Cpus::List(vec![2, 3, 4]);
        assert_eq!(shards(&tuning, &[2, 3, 4]), 3);
        tuning.shards = Shards::Count(2);
        assert_eq!(shards(&tuning, &[2, 3, 4]), 2);
    }
}
