//! How far ahead of a stream to fetch.
//!
//! Pure: owns the size of one stream's window and which ranges to order so that it is full. It
//! grows by a factor each time that half of what was ordered has been read, up to the limit of
//! the moment, and starts anew after a jump. Must not know bytes, requests or memory.

use crate::units::{ByteRange, MIB};

/// The first window: half of a GET. A reader who stops here costs little of it, since what has not
/// come when a file is closed stays away.
pub(super) const START: u64 = 4 * MIB;

/// Longer GETs gain nothing (the SDK's cost per request is 240 us of CPU, 3 % of an 8 MiB GET),
/// and shorter ones cost requests.
pub(super) const REQUEST: u64 = 8 * MIB;

/// GETs of a backward stream: the bytes that are wanted first come last.
const BACKWARD_REQUEST: u64 = MIB;

/// A window becomes so many times as large: 64 MiB in two steps, which is 2 round trips, and hardly
/// more than four times of what was read is fetched for nothing. After waste it only doubles.
const GROWTH: u64 = 4;

/// Strides ordered ahead at most: 16 requests hide 16 times the latency, and a stride that ends
/// wastes no more.
const STRIDES_MAX: u64 = 16;

/// The window of one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Window {
    size: u64,
    /// The byte up to which (backward: down to which) everything has been ordered.
    ordered: Option<u64>,
    strides: u64,
    careful: bool,
}

impl Window {
    /// A window of nothing; one that is `careful` grows more slowly.
    pub const fn new(careful: bool) -> Self {
        Self { size: 0, ordered: None, strides: 0, careful }
    }

    /// Bytes that were ordered ahead have gone for nothing, or have been dropped before they were
    /// read: less will be ordered from `frontier` on.
    pub fn shrink(&mut self, frontier: u64) {
        self.size = (self.size / 2).max(START);
        self.ordered = Some(frontier);
        self.careful = true;
    }

    /// What was to be ordered found no memory: it will be asked for again.
    pub const fn refused(&mut self, order: ByteRange) {
        self.ordered = Some(order.start);
    }

    /// Everything up to `end` has been ordered by other means.
    pub const fn reached(&mut self, end: u64) {
        self.ordered = Some(end);
    }

    /// Where the order ends that reached furthest.
    pub const fn ordered(&self) -> Option<u64> {
        self.ordered
    }

    /// Bytes that are ordered and not read by a stream that has read up to `frontier`.
    pub const fn ahead(&self, frontier: u64) -> u64 {
        match self.ordered {
            Some(ordered) => ordered.saturating_sub(frontier),
            None => 0,
        }
    }

    const fn grown(&self, limit: u64) -> u64 {
        let factor = if self.careful { 2 } else { GROWTH };
        let size = self.size * factor;
        let size = if size < START { START } else { size };
        if size > limit { limit } else { size }
    }

    /// A stream has reached `frontier` in an object of `end` bytes: what to order now, in order,
    /// each at most one GET long.
    pub fn forward(&mut self, frontier: u64, end: u64, limit: u64) -> Vec<ByteRange> {
        let mut ordered = self.ordered.unwrap_or(frontier).max(frontier);
        if ordered >= end {
            return Vec::new();
        }
        let grows = ordered - frontier <= self.size / 2;
        self.size = if grows { self.grown(limit) } else { self.size.min(limit) };
        let until = frontier.saturating_add(self.size).min(end);
        let mut orders = Vec::new();
        // In a large window a GET is ordered when it fits whole: a piece of it now and the rest
        // next time would be two, and neighbouring readers share whole ones.
        let is_large = self.size >= 2 * REQUEST;
        while ordered < until && (is_large || grows) {
            let boundary = ((ordered / REQUEST + 1) * REQUEST).min(end);
            if is_large && boundary > until {
                break;
            }
            orders.push(ByteRange::new(ordered, boundary.min(until)));
            ordered = boundary.min(until);
        }
        self.ordered = Some(ordered);
        orders
    }

    /// The same for a stream that has come down to `frontier`.
    pub fn backward(&mut self, frontier: u64, limit: u64) -> Vec<ByteRange> {
        let mut ordered = self.ordered.unwrap_or(frontier).min(frontier);
        if frontier - ordered > self.size / 2 {
            return Vec::new();
        }
        self.size = self.grown(limit);
        let until = frontier.saturating_sub(self.size);
        let mut orders = Vec::new();
        while ordered > until {
            let boundary = (ordered - 1) / BACKWARD_REQUEST * BACKWARD_REQUEST;
            orders.push(ByteRange::new(boundary.max(until), ordered));
            ordered = boundary.max(until);
        }
        self.ordered = Some(ordered);
        orders
    }

    /// The same for a stream whose reads lie `step` apart: the next strides and nothing between.
    pub fn strided(
        &mut self,
        (last, step): (ByteRange, i64),
        end: u64,
        limit: u64,
    ) -> Vec<ByteRange> {
        let fitting = (limit / last.len().max(1)).min(STRIDES_MAX);
        self.strides = (self.strides * 2).max(1).min(fitting);
        let is_ahead = |at: u64, than: u64| if step > 0 { at > than } else { at < than };
        let mut orders = Vec::new();
        let mut start = last.start;
        for _ in 0..self.strides {
            let Some(next) = start.checked_add_signed(step).filter(|next| *next < end) else {
                break;
            };
            start = next;
            if self.ordered.is_none_or(|ordered| is_ahead(start, ordered)) {
                orders.push(ByteRange::at(start, last.len()).intersect(ByteRange::new(0, end)));
                self.ordered = Some(start);
            }
        }
        orders
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{GIB, KIB};

    const LIMIT: u64 = 64 * MIB;

    fn total(orders: &[ByteRange]) -> u64 {
        orders.iter().map(ByteRange::len).sum()
    }

    #[test]
    fn the_window_grows_to_its_limit_and_orders_each_byte_once() {
        let mut window = Window::default();
        let (mut ordered, mut frontier, mut orders) = (128 * KIB, 0, 0);
        while frontier < GIB {
            frontier += 128 * KIB;
            for order in window.forward(frontier, GIB, LIMIT) {
                orders += 1;
                assert!(order.len() <= REQUEST, "{order}");
                assert_eq!(order.start, ordered, "{order}");
                ordered = order.end;
                assert!(ordered <= frontier + LIMIT, "{order} is too far ahead of {frontier}");
            }
        }
        assert_eq!(ordered, GIB);
        // 128 GETs of 8 MiB, and the small ones of the beginning.
        assert!(orders <= 128 + 6, "{orders} GETs for 1 GiB");
    }

    #[test]
    fn a_large_window_is_always_but_one_request_full() {
        let mut window = Window::default();
        for step in 1..=GIB / MIB {
            let frontier = step * MIB;
            window.forward(frontier, 2 * GIB, LIMIT);
            if step > 100 {
                assert!(window.ahead(frontier) > LIMIT - REQUEST, "at {frontier}");
            }
        }
    }

    #[test]
    fn steps_of_growth() {
        let mut window = Window::default();
        let mut sizes = vec![];
        let mut frontier = MIB;
        for _ in 0..5 {
            sizes.push(total(&window.forward(frontier, GIB, LIMIT)) / MIB);
            frontier = window.ordered().unwrap();
        }
        assert_eq!(sizes, [4, 11, 64, 64, 64], "the second ends at the grid of 8 MiB");
    }

    #[test]
    fn after_waste_it_is_smaller_and_grows_by_doubling() {
        let mut window = Window::default();
        for step in 1..100 {
            window.forward(step * MIB, GIB, LIMIT);
        }
        window.shrink(100 * MIB);
        assert_eq!(window.size, LIMIT / 2);
        let mut window = Window::new(true);
        assert_eq!(total(&window.forward(500 * MIB, GIB, LIMIT)), START);
        let frontier = window.ordered().unwrap();
        assert_eq!(total(&window.forward(frontier, GIB, LIMIT)), 2 * START);
    }

    #[test]
    fn a_limit_that_falls_is_kept_at_once() {
        let mut window = Window::default();
        for step in 1..100 {
            window.forward(step * MIB, GIB, LIMIT);
        }
        let ahead = window.ahead(100 * MIB);
        assert!(window.forward(100 * MIB, GIB, MIB).is_empty(), "{ahead} bytes are ahead");
        let frontier = window.ordered().unwrap();
        assert_eq!(total(&window.forward(frontier, GIB, MIB)), MIB);
    }

    #[test]
    fn nothing_is_ordered_beyond_the_object() {
        let mut window = Window::default();
        assert_eq!(window.forward(4096, 10_000, LIMIT), [ByteRange::new(4096, 10_000)]);
        assert!(window.forward(10_000, 10_000, LIMIT).is_empty());
    }

    #[test]
    fn what_found_no_memory_is_ordered_again() {
        let mut window = Window::default();
        let order = window.forward(MIB, GIB, LIMIT)[0];
        window.refused(order);
        assert_eq!(window.forward(MIB + 4096, GIB, LIMIT)[0].start, MIB + 4096);
    }

    #[test]
    fn backward_orders_lie_before_and_reach_the_beginning() {
        let mut window = Window::default();
        let (mut frontier, mut ordered) = (20 * MIB, 20 * MIB);
        while frontier > 0 {
            for order in window.backward(frontier, LIMIT) {
                assert_eq!(order.end, ordered);
                assert!(order.len() <= BACKWARD_REQUEST);
                ordered = order.start;
            }
            frontier -= 64 * KIB;
        }
        assert_eq!(ordered, 0);
    }

    #[test]
    fn strides_are_ordered_once_and_nothing_between() {
        for step in [10 * MIB.cast_signed(), -10 * MIB.cast_signed()] {
            let mut window = Window::default();
            let mut last = ByteRange::at(if step > 0 { 0 } else { GIB }, 4096);
            let mut ordered = Vec::new();
            for _ in 0..20 {
                ordered.extend(window.strided((last, step), 2 * GIB, LIMIT));
                last = ByteRange::at(last.start.checked_add_signed(step).unwrap(), 4096);
            }
            assert!(ordered.iter().all(|order| order.len() == 4096));
            let starts: Vec<u64> = ordered.iter().map(|order| order.start).collect();
            let want = (1..=starts.len() as i64)
                .map(|number| if step > 0 { 0u64 } else { GIB }.checked_add_signed(number * step));
            assert!(starts.iter().copied().map(Some).eq(want), "{starts:?}");
            assert!(starts.len() >= 30, "{} strides", starts.len());
        }
    }
}
