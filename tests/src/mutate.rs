//! Deterministic mutation of a corpus: a small fuzzer that needs no special compiler.

/// A xorshift generator: the same seed gives the same run everywhere.
pub struct Rng(u64);

impl Rng {
    /// From a seed that is not zero.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed.max(1))
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `bound` (0 for 0).
    pub fn below(&mut self, bound: usize) -> usize {
        if bound == 0 { 0 } else { (self.next_u64() % bound as u64) as usize }
    }
}

/// Numbers at which parsers break.
const EDGES: [u64; 8] = [0, 1, 0x7f, 0x80, 0xff, 0xffff_ffff, 0x7fff_ffff_ffff_ffff, u64::MAX];

/// Changes an input a little: flips, overwrites, cuts, repeats, inserts, splices with another of the corpus.
pub fn mutate(rng: &mut Rng, corpus: &[Vec<u8>], max: usize) -> Vec<u8> {
    let mut bytes = corpus[rng.below(corpus.len())].clone();
    for _ in 0..=rng.below(6) {
        let at = rng.below(bytes.len() + 1);
        match rng.below(9) {
            0 | 1 if at < bytes.len() => bytes[at] ^= 1 << rng.below(8),
            2 if at < bytes.len() => bytes[at] = rng.next_u64() as u8,
            3 => bytes.truncate(at),
            4 => {
                let end = (at + rng.below(64)).min(bytes.len());
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            5 => {
                let edge = EDGES[rng.below(EDGES.len())].to_le_bytes();
                let width = [1, 2, 4, 8][rng.below(4)];
                let end = (at + width).min(bytes.len());
                bytes.splice(at..end, edge[..width].iter().copied());
            }
            6 => {
                let end = (at + rng.below(32)).min(bytes.len());
                bytes.drain(at..end);
            }
            7 => {
                let other = &corpus[rng.below(corpus.len())];
                bytes.truncate(at);
                bytes.extend_from_slice(&other[rng.below(other.len() + 1)..]);
            }
            _ => bytes.insert(at, b"/.\0\n=\\\"{}0"[rng.below(10)]),
        }
    }
    bytes.truncate(max);
    bytes
}

/// Runs a target over mutated inputs until the time is over; gives how many it saw.
///
/// # Panics
/// When the target does, with the seed and the input in hex, so that the run can be repeated.
pub fn run(
    seed: u64,
    corpus: &[Vec<u8>],
    time: std::time::Duration,
    target: impl Fn(&[u8]) + std::panic::RefUnwindSafe,
) -> u64 {
    let (mut rng, start, mut count) = (Rng::new(seed), std::time::Instant::now(), 0);
    for input in corpus {
        target(input);
    }
    while start.elapsed() < time {
        let input = mutate(&mut rng, corpus, 1 << 20);
        let result = std::panic::catch_unwind(|| target(&input));
        if result.is_err() {
            let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
            panic!("input {count} of seed {seed} broke the target: {hex}");
        }
        count += 1;
    }
    count
}
