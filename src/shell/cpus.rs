//! Which CPUs the shards run on.

use super::sys;
use crate::config::{Cpus, Shards, Tuning, cpu_list};

/// Shards of `auto` at most: each does the work of several stock routers.
const SHARDS_AUTO_MAX: usize = 8;

/// The CPUs that `<tuning>` means, in its order, never none; an error says which of them this process may not use.
pub(crate) fn chosen(cpus: &Cpus) -> Result<Vec<usize>, String> {
    let allowed = sys::allowed_cpus();
    let wanted = match cpus {
        Cpus::All => return Ok(allowed),
        Cpus::List(list) => list.clone(),
        Cpus::Numa(node) => of_numa_node(*node)?,
    };
    let denied: Vec<String> = wanted
        .iter()
        .filter(|cpu| !allowed.contains(cpu))
        .map(ToString::to_string)
        .collect();
    if denied.is_empty() {
        return Ok(wanted);
    }
    let (denied, allowed) = (denied.join(","), shown(&allowed));
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

/// As the kernel lists them.
fn shown(cpus: &[usize]) -> String {
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for &cpu in cpus {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == cpu => *last = cpu,
            _ => parts.push((cpu, cpu)),
        }
    }
    let part = |&(first, last): &(usize, usize)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    parts.iter().map(part).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_shown_in_ranges() {
        assert_eq!(shown(&[0, 1, 2, 5, 7, 8]), "0-2,5,7-8");
    }

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
