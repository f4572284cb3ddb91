//! How far ahead of a reader to fetch.
//!
//! Pure: owns the size of the window and which ranges to order so that it is full. Grows by
//! doubling while reads go on, and starts anew after a jump. Must not know bytes or requests.

use crate::units::{ByteRange, MIB};

/// The first window: one small GET, so that the first bytes come soon and `head` costs little.
const START: u64 = MIB;

/// Longer GETs gain nothing (the SDK's cost per request is 240 us of CPU, 3 % of an 8 MiB GET),
/// and shorter ones cost requests.
const REQUEST: u64 = 8 * MIB;

/// The window of one handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    size: u64,
    size_max: u64,
    /// The byte up to which everything has been ordered.
    ordered: u64,
}

impl Window {
    /// A window of at most `size_max` bytes.
    pub const fn new(size_max: u64) -> Self {
        Self { size: 0, size_max, ordered: 0 }
    }

    /// A jump: nothing is ahead any more.
    pub const fn reset(&mut self) {
        self.size = 0;
        self.ordered = 0;
    }

    /// A sequential read has reached `frontier` in an object of `object_size` bytes: what to order
    /// now, in order, each at most one GET long.
    pub fn advance(&mut self, frontier: u64, object_size: u64) -> Vec<ByteRange> {
        self.ordered = self.ordered.max(frontier);
        let ahead = self.ordered - frontier;
        // Half a window is always on its way while the other half is read.
        if ahead > self.size / 2 || self.ordered >= object_size {
            return Vec::new();
        }
        self.size = (self.size * 2).max(START).min(self.size_max);
        let end = self.end(frontier).min(object_size);
        let mut orders = Vec::new();
        while self.ordered < end {
            let boundary = (self.ordered / REQUEST + 1) * REQUEST;
            let order = ByteRange::new(self.ordered, boundary.min(end));
            self.ordered = order.end;
            orders.push(order);
        }
        orders
    }

    /// Where the window ends. A large one ends where a GET would end anyway: a piece of a GET now
    /// and the rest of it next time would be two, and neighbouring readers share whole ones.
    const fn end(&self, frontier: u64) -> u64 {
        let end = frontier.saturating_add(self.size);
        let aligned = end / REQUEST * REQUEST;
        if self.size >= 2 * REQUEST && aligned > self.ordered { aligned } else { end }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{GIB, KIB};

    #[test]
    fn the_window_doubles_to_its_maximum_and_orders_each_byte_once() {
        let mut window = Window::new(32 * MIB);
        let mut ordered = 0;
        let mut frontier = 0;
        let mut orders = 0;
        while frontier < GIB {
            frontier += 128 * KIB;
            for order in window.advance(frontier, GIB) {
                orders += 1;
                assert!(order.len() <= REQUEST, "{order}");
                assert!(order.start >= ordered, "{order} again");
                ordered = order.end;
                assert!(ordered <= frontier + 32 * MIB, "{order} is too far ahead of {frontier}");
            }
        }
        assert_eq!(ordered, GIB);
        // 128 GETs of 8 MiB, and the small ones of the beginning.
        assert!(orders <= 128 + 8, "{orders} GETs for 1 GiB");
    }

    #[test]
    fn nothing_is_ordered_beyond_the_object() {
        let mut window = Window::new(32 * MIB);
        assert_eq!(window.advance(4096, 10_000), [ByteRange::new(4096, 10_000)]);
        assert!(window.advance(10_000, 10_000).is_empty());
    }

    #[test]
    fn a_jump_starts_small_again() {
        let mut window = Window::new(32 * MIB);
        for step in 1..200 {
            window.advance(step * MIB, GIB);
        }
        window.reset();
        let orders = window.advance(500 * MIB, GIB);
        assert_eq!(orders.iter().map(ByteRange::len).sum::<u64>(), MIB);
    }
}
