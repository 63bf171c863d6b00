//! [`Schedule`]: whose request goes on the wire next.
//!
//! Plain data. Priorities are strict where they have to be: what is brought at leisure waits while anything more
//! urgent is queued. Within a priority blobs take turns by deficit round-robin, counted in bytes: a blob with a thousand
//! requests gets as many bytes a round as one with a single request, and that one waits for one quantum of each of the
//! others at most.
//!
//! Each priority has a budget of bytes on the wire of its own, so that no reader waits behind readahead. A blob may have
//! only so many requests out, and beyond the budget each has a lane of one request for a waiting reader: a blob whose
//! source hangs holds up nobody else's readers.

use std::collections::{BTreeMap, VecDeque};

use crate::{
    cause::{PerPriority, Priority},
    table::ObjectId,
};

/// What a request costs at least: it bounds the number of requests as well.
pub(crate) const REQUEST_BYTES_MIN: u64 = 128 << 10;
/// The largest request that a lane is open for. An image chooses how many blobs it has and how large their chunks are: what
/// is out beyond the budget must not grow with both.
const LANE_BYTES_MAX: u64 = 2 << 20;

/// Bytes that a blob may send in each round.
const QUANTUM_BYTES: u64 = REQUEST_BYTES_MIN;

/// A place in the schedule, from the queue to the end of the request. Never used twice.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Turn(u64);

/// One request that wants to go out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    pub blob: ObjectId,
    pub priority: Priority,
    pub bytes: u64,
    /// Requests of this priority that the blob may have out at once.
    pub at_once_max: usize,
}

/// Who is queued and who is out.
#[derive(Debug)]
pub(crate) struct Schedule {
    classes: PerPriority<Class>,
    /// All that are out, by turn.
    out: BTreeMap<Turn, (Wish, u64)>,
    turns: u64,
}

#[derive(Debug, Default)]
struct Class {
    budget: u64,
    out_bytes: u64,
    out_of: BTreeMap<ObjectId, usize>,
    flows: BTreeMap<ObjectId, Flow>,
    /// The blobs in `flows`, in the order of their turns.
    ring: VecDeque<ObjectId>,
}

/// How a request goes out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Way {
    /// Within the budget of its priority.
    Budget,
    /// Beyond it.
    Lane,
}

/// What one blob has queued.
#[derive(Debug, Default)]
struct Flow {
    queue: VecDeque<(Turn, Wish)>,
    deficit: u64,
}

impl Schedule {
    /// Starts empty, with these budgets of bytes.
    pub fn new(budgets: PerPriority<u64>) -> Self {
        let class = |budget: u64| Class { budget: budget.max(1), ..Class::default() };
        let classes = PerPriority {
            prefetch: class(budgets.prefetch),
            profile: class(budgets.profile),
            readahead: class(budgets.readahead),
            demand: class(budgets.demand),
        };
        Self { classes, out: BTreeMap::new(), turns: 0 }
    }

    /// Queues a request.
    pub fn enter(&mut self, wish: Wish) -> Turn {
        self.turns += 1;
        let turn = Turn(self.turns);
        let class = self.classes.of_mut(wish.priority);
        let flow = class.flows.entry(wish.blob).or_insert_with(|| {
            class.ring.push_back(wish.blob);
            Flow::default()
        });
        flow.queue.push_back((turn, wish));
        turn
    }

    /// Lets the next one go, if one may.
    pub fn grant(&mut self) -> Option<Turn> {
        for priority in Priority::MOST_URGENT_FIRST {
            // Readahead has to run while readers wait; what is brought at leisure does not.
            if priority < Priority::Readahead && self.is_anything_queued_above(priority) {
                return None;
            }
            if let Some((turn, wish, cost)) = self.classes.of_mut(priority).grant(priority) {
                self.out.insert(turn, (wish, cost));
                return Some(turn);
            }
        }
        None
    }

    /// Ends a turn, be it queued or out.
    pub fn leave(&mut self, turn: Turn) {
        if let Some((wish, cost)) = self.out.remove(&turn) {
            return self.classes.of_mut(wish.priority).give_back(wish.blob, cost);
        }
        for priority in Priority::MOST_URGENT_FIRST {
            self.classes.of_mut(priority).forget(turn);
        }
    }

    /// Requests of `blob` that are queued.
    pub fn queued(&self, blob: ObjectId, priority: Priority) -> usize {
        self.classes.of(priority).flows.get(&blob).map_or(0, |flow| flow.queue.len())
    }

    /// Whether requests of this priority, or of a higher one, are queued.
    pub fn is_anything_queued(&self, priority: Priority) -> bool {
        let is_as_urgent = |other: &Priority| *other >= priority;
        let is_queued = |other: Priority| !self.classes.of(other).flows.is_empty();
        Priority::MOST_URGENT_FIRST.into_iter().filter(is_as_urgent).any(is_queued)
    }

    fn is_anything_queued_above(&self, priority: Priority) -> bool {
        Priority::MOST_URGENT_FIRST
            .into_iter()
            .filter(|above| *above > priority && *above != Priority::Readahead)
            .any(|above| !self.classes.of(above).flows.is_empty())
    }
}

impl Class {
    /// One that is larger than the whole budget waits for all of it.
    fn cost(&self, wish: &Wish) -> u64 {
        wish.bytes.max(REQUEST_BYTES_MIN).min(self.budget)
    }

    fn grant(&mut self, priority: Priority) -> Option<(Turn, Wish, u64)> {
        let (blob, way) = self.whose_turn(priority)?;
        let (_, wish) = *self.flows.get(&blob)?.queue.front()?;
        let cost = self.cost(&wish);
        let flow = self.flows.get_mut(&blob)?;
        // By its lane a blob may go before its turn: it has less for the next.
        flow.deficit = flow.deficit.saturating_sub(cost);
        let (turn, wish) = flow.queue.pop_front()?;
        // Were lanes charged, a large request that waits for room would wait for as long as others have small ones.
        let cost = if way == Way::Lane { 0 } else { cost };
        self.out_bytes += cost;
        *self.out_of.entry(blob).or_default() += 1;
        self.drop_if_empty(blob);
        Some((turn, wish, cost))
    }

    /// The next blob in the ring that has saved up for its first request. When there is no room for that one it waits for
    /// room, and smaller ones of others do not slip past it; only lanes are open then.
    fn whose_turn(&mut self, priority: Priority) -> Option<(ObjectId, Way)> {
        let mut passed = 0;
        while passed < self.ring.len() {
            let blob = *self.ring.front()?;
            let flow = self.flows.get(&blob)?;
            let (_, wish) = *flow.queue.front()?;
            let cost = self.cost(&wish);
            if self.out_of(blob) >= wish.at_once_max.max(1) {
                self.ring.rotate_left(1);
                passed += 1;
            } else if flow.deficit < cost {
                self.flows.get_mut(&blob)?.deficit += QUANTUM_BYTES;
                self.ring.rotate_left(1);
                passed = 0;
            } else if self.out_bytes.saturating_add(cost) <= self.budget || self.out_bytes == 0 {
                return Some((blob, Way::Budget));
            } else {
                let has_lane = |blob: &ObjectId| self.out_of(*blob) == 0 && self.fits_a_lane(*blob);
                let mut lanes = self.ring.iter().copied().filter(|_| priority == Priority::Demand);
                return lanes.find(has_lane).map(|blob| (blob, Way::Lane));
            }
        }
        None
    }

    /// Whether the next request of `blob` is small enough to be out beyond the budget.
    fn fits_a_lane(&self, blob: ObjectId) -> bool {
        let next = self.flows.get(&blob).and_then(|flow| flow.queue.front());
        next.is_some_and(|(_, wish)| wish.bytes <= LANE_BYTES_MAX)
    }

    fn out_of(&self, blob: ObjectId) -> usize {
        self.out_of.get(&blob).copied().unwrap_or(0)
    }

    fn give_back(&mut self, blob: ObjectId, cost: u64) {
        self.out_bytes = self.out_bytes.saturating_sub(cost);
        if let Some(out) = self.out_of.get_mut(&blob) {
            *out -= 1;
            if *out == 0 {
                self.out_of.remove(&blob);
            }
        }
    }

    fn forget(&mut self, turn: Turn) {
        let found = self.flows.iter_mut().find_map(|(blob, flow)| {
            let at = flow.queue.iter().position(|(queued, _)| *queued == turn)?;
            flow.queue.remove(at).map(|_| *blob)
        });
        if let Some(blob) = found {
            self.drop_if_empty(blob);
        }
    }

    /// A blob with nothing queued keeps no deficit: it cannot save up for a burst.
    fn drop_if_empty(&mut self, blob: ObjectId) {
        if self.flows.get(&blob).is_some_and(|flow| flow.queue.is_empty()) {
            self.flows.remove(&blob);
            self.ring.retain(|other| *other != blob);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashMap};

    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn budgets(each: u64) -> PerPriority<u64> {
        PerPriority { prefetch: each, profile: each, readahead: each, demand: each }
    }

    fn wish(blob: u64, priority: Priority, bytes: u64) -> Wish {
        Wish { blob: ObjectId::from(blob), priority, bytes, at_once_max: 16 }
    }

    fn all(schedule: &mut Schedule) -> Vec<Turn> {
        std::iter::from_fn(|| schedule.grant()).collect()
    }

    #[test]
    fn a_request_as_large_as_the_budget_goes_out_however_many_small_ones_others_have() {
        let mut schedule = Schedule::new(budgets(MIB));
        let small = |schedule: &mut Schedule, blob| {
            schedule.enter(wish(blob, Priority::Demand, 64 << 10));
        };
        (0..4).for_each(|n| small(&mut schedule, 2 + n % 2));
        let mut out = VecDeque::from(all(&mut schedule));
        let large = schedule.enter(wish(1, Priority::Demand, MIB));
        for _ in 0..100 {
            (2..4).for_each(|blob| small(&mut schedule, blob));
            out.extend(all(&mut schedule));
            if out.contains(&large) {
                return;
            }
            // One ends while the other is still out: never is there nothing on the wire.
            schedule.leave(out.pop_front().expect("somebody is always out"));
        }
        panic!("it never found room");
    }

    #[test]
    fn an_image_with_a_thousand_waiting_chunks_does_not_hold_up_anothers_single_one() {
        let mut schedule = Schedule::new(budgets(MIB));
        for _ in 0..1000 {
            schedule.enter(wish(1, Priority::Demand, 64 << 10));
        }
        let out = all(&mut schedule);
        assert_eq!(out.len(), 8, "the budget");
        let single = schedule.enter(wish(2, Priority::Demand, 64 << 10));
        assert_eq!(schedule.grant(), Some(single), "by its lane");
        let second = schedule.enter(wish(2, Priority::Demand, 64 << 10));
        assert_eq!(schedule.grant(), None);
        // Its own single one is over the budget: two have to end before there is room.
        schedule.leave(out[0]);
        schedule.leave(out[1]);
        let next: Vec<_> = (2..5)
            .filter_map(|n| {
                let turn = schedule.grant();
                schedule.leave(out[n]);
                turn
            })
            .collect();
        assert!(next.contains(&second), "{next:?}");
    }

    #[test]
    fn two_images_share_the_wire_by_bytes_whatever_the_size_of_their_requests() {
        let mut schedule = Schedule::new(budgets(MIB));
        let mut of = HashMap::new();
        for _ in 0..400 {
            of.insert(schedule.enter(wish(1, Priority::Demand, 128 << 10)), (1, 128 << 10));
            of.insert(schedule.enter(wish(2, Priority::Demand, 512 << 10)), (2, 512 << 10));
        }
        let (mut sent, mut out) = (HashMap::from([(1, 0_u64), (2, 0)]), VecDeque::new());
        for _ in 0..200 {
            while let Some(turn) = schedule.grant() {
                let (blob, bytes) = of[&turn];
                *sent.entry(blob).or_default() += bytes;
                out.push_back(turn);
            }
            schedule.leave(out.pop_front().expect("something is out"));
        }
        assert!(sent[&1].abs_diff(sent[&2]) <= MIB, "{sent:?}");
    }

    #[test]
    fn demand_goes_first_and_what_is_at_leisure_waits_for_what_is_queued() {
        let mut schedule = Schedule::new(budgets(128 << 10));
        let prefetch = schedule.enter(wish(1, Priority::Prefetch, 1));
        let profile = schedule.enter(wish(1, Priority::Profile, 1));
        let ahead = schedule.enter(wish(1, Priority::Readahead, 1));
        let demand = schedule.enter(wish(1, Priority::Demand, 1));
        let waiting = schedule.enter(wish(1, Priority::Demand, 1));
        assert_eq!(all(&mut schedule), [demand, ahead], "readahead has a budget of its own");
        schedule.leave(demand);
        assert_eq!(
            all(&mut schedule),
            [waiting, profile, prefetch],
            "in this order, once nothing more urgent is queued"
        );
    }

    #[test]
    fn a_request_larger_than_the_budget_goes_alone() {
        let mut schedule = Schedule::new(budgets(MIB));
        let huge = schedule.enter(wish(1, Priority::Readahead, u64::MAX));
        let small = schedule.enter(wish(1, Priority::Readahead, 1));
        assert_eq!(all(&mut schedule), [huge]);
        schedule.leave(huge);
        assert_eq!(all(&mut schedule), [small]);
    }

    #[test]
    fn a_lane_beyond_the_budget_is_for_small_requests_alone() {
        let mut schedule = Schedule::new(budgets(MIB));
        let first = schedule.enter(wish(1, Priority::Demand, MIB));
        let huge = schedule.enter(wish(2, Priority::Demand, LANE_BYTES_MAX + 1));
        let small = schedule.enter(wish(3, Priority::Demand, LANE_BYTES_MAX));
        assert_eq!(all(&mut schedule), [first, small]);
        schedule.leave(first);
        schedule.leave(small);
        assert_eq!(all(&mut schedule), [huge]);
    }

    #[test]
    fn requests_are_bounded_for_each_blob() {
        let mut schedule = Schedule::new(budgets(64 * MIB));
        let wish = Wish { at_once_max: 2, ..wish(1, Priority::Demand, 1) };
        let turns: Vec<Turn> = (0..3).map(|_| schedule.enter(wish)).collect();
        assert_eq!(all(&mut schedule), turns[..2]);
        schedule.leave(turns[0]);
        assert_eq!(all(&mut schedule), turns[2..]);
    }

    #[derive(Clone, Debug)]
    enum Op {
        Enter(u64, usize, u64),
        Grant,
        Leave(usize),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            3 => (1u64..5, 0usize..4, 1u64..(600 << 10)).prop_map(|(blob, class, bytes)| Op::Enter(blob, class, bytes)),
            4 => Just(Op::Grant),
            3 => (0usize..64).prop_map(Op::Leave),
        ]
    }

    proptest! {
        /// Against two plain lists: nothing is lost, doubled, over its bounds, out of order, or kept although it could go.
        #[test]
        fn whoever_may_go_goes_once_and_nobody_else(ops in prop::collection::vec(op(), 1..200)) {
            const BUDGET: u64 = MIB;
            const AT_ONCE: usize = 3;
            let mut schedule = Schedule::new(budgets(BUDGET));
            let mut queued: Vec<(Turn, Wish)> = Vec::new();
            let mut out: Vec<(Turn, Wish)> = Vec::new();
            let cost = |wish: &Wish| wish.bytes.max(REQUEST_BYTES_MIN);
            for op in ops {
                match op {
                    Op::Enter(blob, class, bytes) => {
                        let priority = Priority::MOST_URGENT_FIRST[class];
                        let wish = Wish { at_once_max: AT_ONCE, ..wish(blob, priority, bytes) };
                        queued.push((schedule.enter(wish), wish));
                    }
                    Op::Leave(n) => {
                        let list = if n % 3 == 0 { &mut queued } else { &mut out };
                        if !list.is_empty() {
                            let at = n % list.len();
                            schedule.leave(list.remove(at).0);
                        }
                    }
                    Op::Grant => {
                        let heads: BTreeSet<Turn> = {
                            let mut seen = BTreeSet::new();
                            queued.iter().filter(|(_, w)| seen.insert((w.blob, w.priority))).map(|(t, _)| *t).collect()
                        };
                        // What is out of a wish's priority: bytes, and requests of its own blob.
                        let out_with = |wish: &Wish| {
                            let class = out.iter().filter(|(_, other)| other.priority == wish.priority);
                            class.fold((0, 0), |(bytes, count), (turn, other)| {
                                let charged = schedule.out.get(turn).map_or(0, |(_, cost)| *cost);
                                (bytes + charged, count + usize::from(other.blob == wish.blob))
                            })
                        };
                        let fits = |wish: &Wish| {
                            let (bytes, _) = out_with(wish);
                            bytes == 0 || bytes + cost(wish) <= BUDGET
                        };
                        let has_lane = |wish: &Wish| wish.priority == Priority::Demand && out_with(wish).1 == 0;
                        let held_back = |wish: &Wish| {
                            wish.priority < Priority::Readahead
                                && queued.iter().any(|(_, other)| {
                                    other.priority > wish.priority && other.priority != Priority::Readahead
                                })
                        };
                        let heads: Vec<(Turn, Wish)> = queued
                            .iter()
                            .filter(|(turn, wish)| heads.contains(turn) && out_with(wish).1 < AT_ONCE && !held_back(wish))
                            .copied()
                            .collect();
                        let (fit, have_lanes): (Vec<Turn>, Vec<Turn>) = {
                            let turns = |may: &dyn Fn(&Wish) -> bool| {
                                heads.iter().filter(|(_, wish)| may(wish)).map(|(turn, _)| *turn).collect()
                            };
                            (turns(&fits), turns(&has_lane))
                        };
                        // Where one waits for room, the others need not go; a lane is always open.
                        let must_go = |priority: Priority| {
                            let mut class = heads.iter().filter(|(_, wish)| wish.priority == priority).peekable();
                            class.peek().is_some()
                                && (class.clone().all(|(_, wish)| fits(wish)) || class.any(|(_, wish)| has_lane(wish)))
                        };
                        let musts = Priority::MOST_URGENT_FIRST.map(must_go);
                        let granted = schedule.grant();
                        let found = heads.iter().find(|(turn, _)| Some(*turn) == granted).copied();
                        prop_assert_eq!(found.is_some(), granted.is_some(), "it is nobody's turn");
                        if let Some((turn, wish)) = found {
                            let (_, charged) = schedule.out[&turn];
                            prop_assert!(charged == 0 || charged == cost(&wish), "it is charged, or has a lane");
                            let may = if charged == 0 { &have_lanes } else { &fit };
                            prop_assert!(may.contains(&turn), "there is no room");
                            queued.retain(|(t, _)| *t != turn);
                        }
                        let skipped = Priority::MOST_URGENT_FIRST
                            .into_iter()
                            .zip(musts)
                            .filter(|(priority, _)| found.is_none_or(|(_, wish)| *priority > wish.priority))
                            .find(|(_, must)| *must);
                        prop_assert_eq!(skipped, None);
                        out.extend(found);
                    }
                }
            }
        }
    }
}
