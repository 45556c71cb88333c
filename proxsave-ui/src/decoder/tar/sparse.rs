//! Sparse maps: which parts of a file are stored, and which are holes.

use super::Broken;
use super::pax::{SparseRecords, decimal};
use std::collections::VecDeque;

/// The regions of a file that are stored, in order, and its full size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SparseMap {
    /// Full size in bytes, holes included.
    pub size: u64,
    /// Offset and length of each stored region.
    pub regions: VecDeque<(u64, u64)>,
}

/// What the records of an entry call for.
#[derive(Debug, PartialEq, Eq)]
pub enum SparseForm {
    /// The map is complete (0.0 and 0.1).
    Ready(SparseMap),
    /// The map stands in front of the data (1.0); the full size is given.
    InBody(u64),
}

impl SparseForm {
    /// Reads the records; `stored` is the size of the entry's body.
    pub fn read(records: &SparseRecords, stored: u64) -> Result<Self, Broken> {
        let size = records.size.ok_or("a sparse file without its full size")?;
        match records.version {
            (None, None) => {
                let pairs = records.map.len() / 2;
                if !records.map.len().is_multiple_of(2) || records.blocks != Some(pairs as u64) {
                    return Err("its sparse map is malformed".into());
                }
                SparseMap::new(size, &records.map, stored).map(Self::Ready)
            }
            (Some(1), Some(0)) if records.map.is_empty() && records.blocks.is_none() => Ok(Self::InBody(size)),
            _ => Err("a sparse file in a version that is not known".into()),
        }
    }
}

impl SparseMap {
    /// Checks offsets and lengths, given in turn: ascending, apart, within the size, and `stored` bytes in all.
    pub fn new(size: u64, numbers: &[u64], stored: u64) -> Result<Self, Broken> {
        let mut regions = VecDeque::with_capacity(numbers.len() / 2);
        let (mut end, mut sum) = (0u64, 0u64);
        for pair in numbers.chunks(2) {
            let [offset, length] = pair else { return Err("its sparse map is malformed".into()) };
            let next = offset.checked_add(*length).filter(|next| *offset >= end && *next <= size);
            end = next.ok_or("its sparse map overlaps or leaves the file")?;
            sum = sum.checked_add(*length).ok_or("its sparse map does not fit")?;
            if *length > 0 {
                regions.push_back((*offset, *length));
            }
        }
        if sum != stored {
            return Err("its sparse map does not match its body".into());
        }
        Ok(Self { size, regions })
    }
}

/// Collects the map of version 1.0 as it is read: a count, then offsets and lengths, a line each.
#[derive(Debug, Default)]
pub struct MapLines {
    numbers: Vec<u64>,
    line: Vec<u8>,
}

impl MapLines {
    /// Takes one byte. `Ok(true)` when the map is complete.
    pub fn push(&mut self, byte: u8) -> Result<bool, Broken> {
        if byte != b'\n' {
            self.line.push(byte);
            return if self.line.len() > 20 { Err("its sparse map is malformed".into()) } else { Ok(false) };
        }
        let value = decimal(&self.line).ok_or("its sparse map is malformed")?;
        self.line.clear();
        self.numbers.push(value);
        Ok(self.is_complete())
    }

    fn is_complete(&self) -> bool {
        let wanted = self.numbers.first().and_then(|count| count.checked_mul(2));
        wanted.is_some_and(|wanted| (self.numbers.len() as u64).checked_sub(1) == Some(wanted))
    }

    /// The offsets and lengths.
    pub fn numbers(&self) -> &[u64] {
        self.numbers.get(1..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_must_ascend_and_add_up() {
        assert!(SparseMap::new(100, &[0, 10, 50, 10], 20).is_ok());
        assert!(SparseMap::new(100, &[50, 10, 0, 10], 20).is_err());
        assert!(SparseMap::new(100, &[0, 10, 5, 10], 20).is_err());
        assert!(SparseMap::new(100, &[95, 10], 10).is_err());
        assert!(SparseMap::new(100, &[0, 10], 11).is_err());
        assert!(SparseMap::new(u64::MAX, &[u64::MAX, 1], 1).is_err());
        assert_eq!(SparseMap::new(100, &[0, 10, 100, 0], 10).unwrap().regions.len(), 1);
    }

    #[test]
    fn a_map_in_the_body_ends_where_its_count_says() {
        let mut lines = MapLines::default();
        let ends: Vec<bool> = b"1\n0\n512\n".iter().map(|byte| lines.push(*byte).unwrap()).collect();
        assert_eq!(ends, [false, false, false, false, false, false, false, true]);
        assert_eq!(lines.numbers(), [0, 512]);
        let mut none = MapLines::default();
        assert!(!none.push(b'0').unwrap());
        assert!(none.push(b'\n').unwrap());
        assert!(MapLines::default().push(b'\n').is_err());
    }
}
