//! Random choices that are the same at every run: a measurement repeated is the same traffic.

/// A splitmix64 generator.
#[derive(Clone, Debug)]
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to `end`, without it.
    pub(super) fn below(&mut self, end: usize) -> usize {
        (((u128::from(self.next())) * end as u128) >> 64) as usize
    }

    /// From 0 to 1, without it.
    pub(super) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Zipf's law: rank k is drawn in proportion to k to the power of -`skew`. With skew 1 and 10 000 ranks the first tenth
/// gets three quarters of all draws.
#[derive(Debug)]
pub(super) struct Zipf {
    /// Share of all ranks up to each.
    cumulated: Vec<f64>,
}

impl Zipf {
    /// `ranks`: 1 or more.
    pub(super) fn new(ranks: usize, skew: f64) -> Zipf {
        let mut sum = 0.0;
        let weights = (1..=ranks.max(1)).map(|rank| (rank as f64).powf(-skew));
        let mut cumulated: Vec<f64> = weights
            .map(|weight| {
                sum += weight;
                sum
            })
            .collect();
        cumulated.iter_mut().for_each(|share| *share /= sum);
        Zipf { cumulated }
    }

    /// A rank, counted from 0.
    pub(super) fn draw(&self, rng: &mut Rng) -> usize {
        let unit = rng.unit();
        let rank = self.cumulated.partition_point(|share| *share <= unit);
        rank.min(self.cumulated.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_fall_as_zipf_says() {
        let (zipf, mut rng) = (Zipf::new(1000, 1.0), Rng::new(1));
        let mut drawn = vec![0_u32; 1000];
        for _ in 0..100_000 {
            drawn[zipf.draw(&mut rng)] += 1;
        }
        // The sum of 1/k for 1000 ranks is 7.485.
        assert!((12_900..13_900).contains(&drawn[0]), "{}", drawn[0]);
        assert!((1_150..1_550).contains(&drawn[9]), "{}", drawn[9]);
        let flat = Zipf::new(4, 0.0);
        assert!((0..1000).map(|_| flat.draw(&mut rng)).all(|rank| rank < 4));
    }

    #[test]
    fn choices_stay_in_their_range_and_repeat() {
        let (mut a, mut b) = (Rng::new(7), Rng::new(7));
        for _ in 0..1000 {
            let drawn = a.below(10);
            assert!(drawn < 10 && drawn == b.below(10));
        }
    }
}
