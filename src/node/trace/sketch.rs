//! Who has the most frames, in bounded memory: the space-saving sketch (Metwally, Agrawal, El Abbadi 2005).
//!
//! Invariants, of all weight `W` added so far: whoever has more than `W / KEYS_MAX` of it is among the keys, and what is
//! told of a key is no more than it has, and less by at most `W / KEYS_MAX`.

/// Keys of one sketch.
pub(super) const KEYS_MAX: usize = 64;

/// The heaviest keys.
#[derive(Clone, Debug, Default)]
pub struct Sketch {
    entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    key: Box<str>,
    weight: u64,
    /// What of it may be that of keys that stood here before.
    inherited: u64,
}

impl Sketch {
    /// Adds to what `key` has. A new key takes the place of the lightest, and its weight with it.
    pub(super) fn add(&mut self, key: &str, weight: u64) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| *entry.key == *key) {
            entry.weight += weight;
        } else if self.entries.len() < KEYS_MAX {
            self.entries.push(Entry {
                key: key.into(),
                weight,
                inherited: 0,
            });
        } else if let Some(lightest) = self.entries.iter_mut().min_by_key(|entry| entry.weight) {
            *lightest = Entry {
                key: key.into(),
                weight: lightest.weight + weight,
                inherited: lightest.weight,
            };
        }
    }

    /// The keys, in no order, with the weight that each has for certain.
    pub fn certain(&self) -> impl Iterator<Item = (&str, u64)> {
        let certain = |entry: &Entry| entry.weight - entry.inherited;
        self.entries.iter().map(move |entry| (&*entry.key, certain(entry)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn the_heavy_are_found_and_nobody_is_overrated() {
        for seed in 0..20_u64 {
            let (mut sketch, mut truth, mut all) = (Sketch::default(), HashMap::<String, u64>::new(), 0);
            let mut state = seed;
            for _ in 0..20_000 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let (draw, weight) = (state >> 40, 1 + (state >> 33) % 7);
                // One of ten thousand, or one of five: in the worst order, the many first and last.
                let key = match draw % 3 {
                    0 => format!("heavy{}", draw % 5),
                    _ => format!("light{}", draw % 10_000),
                };
                sketch.add(&key, weight);
                *truth.entry(key).or_default() += weight;
                all += weight;
            }
            let found: HashMap<&str, u64> = sketch.certain().collect();
            assert!(found.len() <= KEYS_MAX, "bounded");
            let most = all / KEYS_MAX as u64;
            for (key, &has) in &truth {
                let told = found.get(&**key).copied();
                assert!(told.is_some() || has <= most, "{key} with {has} of {all} is missing");
                assert!(
                    told.is_none_or(|told| told <= has && has - told <= most),
                    "{key}: {told:?} of {has}"
                );
            }
        }
    }
}
