//! Notices that most of the held memory was released. It measures and releases nothing itself.

/// The release of a smaller peak is not reported.
const PEAK_BYTES_MIN: usize = 16 * 1024 * 1024;

/// A fall to a quarter of the peak counts as a release.
const SHARE: usize = 4;

/// The most memory held since the last release.
#[derive(Debug, Default)]
pub(crate) struct Peak {
    bytes: usize,
}

impl Peak {
    /// Takes the memory held now; returns whether most of the peak was released. The rest is then the next peak.
    pub(crate) fn is_released(&mut self, held: usize) -> bool {
        let released = self.bytes >= PEAK_BYTES_MIN && held <= self.bytes / SHARE;
        self.bytes = if released { held } else { self.bytes.max(held) };
        released
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1024 * 1024;

    #[test]
    fn each_fall_to_a_quarter_is_reported_once() {
        let mut peak = Peak::default();
        let held = [0, 100, 200, 60, 50, 49, 12, 12, 0, 0, 40, 0];
        let reported: Vec<usize> = held.into_iter().filter(|mib| peak.is_released(mib * MIB)).collect();
        assert_eq!(reported, [50, 12, 0]);
    }

    #[test]
    fn small_peaks_are_not_reported() {
        let mut peak = Peak::default();
        assert!(![15, 0, 15, 0].into_iter().any(|mib| peak.is_released(mib * MIB)));
    }
}
