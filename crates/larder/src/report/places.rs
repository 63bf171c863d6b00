//! [`Places`]: the parts of an image that were touched, one under the other, without the rest.

use super::text::float;

/// A gap of so many bytes is left out of the drawing.
const GAP_BYTES_MIN: u64 = 2 << 20;

/// The touched parts of the image's data, and where each stands in the drawing.
#[derive(Debug)]
pub(super) struct Places {
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    start: u64,
    end: u64,
    top: f64,
    height: f64,
}

impl Places {
    /// Puts the parts that hold `touched` under each other from `top` on; all together are `height` high.
    pub(super) fn new(mut touched: Vec<(u64, u64)>, top: f64, height: f64) -> Self {
        touched.sort_unstable();
        let mut parts: Vec<(u64, u64)> = Vec::new();
        for (start, end) in touched {
            match parts.last_mut() {
                Some(last) if start <= last.1.saturating_add(GAP_BYTES_MIN) => last.1 = last.1.max(end),
                _ => parts.push((start, end)),
            }
        }
        let sum: f64 = parts.iter().map(|(start, end)| float(end - start)).sum();
        // A third of the height goes to all alike, so that a small part can be seen beside a large one.
        let alike = height / 3.0 / float(u64::try_from(parts.len().max(1)).unwrap_or(1));
        let mut at = top;
        let place = |(start, end): (u64, u64)| {
            let part = Part {
                start,
                end,
                top: at,
                height: alike + height * 2.0 / 3.0 * float(end - start) / sum.max(1.0),
            };
            at += part.height;
            part
        };
        Self { parts: parts.into_iter().map(place).collect() }
    }

    /// Where a byte stands; `None` when it lies in no part.
    pub(super) fn y(&self, at: u64) -> Option<f64> {
        let after = self.parts.partition_point(|part| part.start <= at);
        let part = self.parts.get(after.checked_sub(1)?).filter(|part| at <= part.end)?;
        // A margin at both ends: what lies at the edge belongs to this part and not to the next.
        let share = float(at - part.start) / float((part.end - part.start).max(1));
        Some(part.top + part.height * (0.12 + 0.76 * share))
    }

    /// Top and first byte of each part.
    pub(super) fn parts(&self) -> impl Iterator<Item = (f64, u64)> {
        self.parts.iter().map(|part| (part.top, part.start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_stand_in_order_and_gaps_take_no_room() {
        const MIB: u64 = 1 << 20;
        let places = Places::new(vec![(900 * MIB, 910 * MIB), (0, MIB), (2 * MIB, 5 * MIB)], 10.0, 300.0);
        assert_eq!(places.parts().map(|(_, start)| start).collect::<Vec<_>>(), [0, 900 * MIB]);
        let at = |byte: u64| places.y(byte).expect("it lies in a part");
        assert!(10.0 < at(0) && at(0) < at(5 * MIB) && at(5 * MIB) < at(900 * MIB) && at(910 * MIB) < 310.0);
        assert_eq!(places.y(500 * MIB), None);
        assert_eq!(Places::new(Vec::new(), 0.0, 1.0).y(0), None);
    }
}
