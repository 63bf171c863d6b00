//! [`FlightTable`]: which chunks are being brought right now, and by which booking.
//!
//! The table says nothing about what is present: the presence map does. A flight exists only while a fetch is under
//! way, so whoever holds the table's lock, sees a hole in the presence map and finds no flight may start one: nothing
//! can have landed in between, because a chunk's presence bits are set before its flight is taken out.

use std::collections::HashMap;

use tokio::sync::watch;

use crate::{FillError, cause::Priority};

/// Names the fill that brings a chunk; never used twice in a table's life.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct BookingId(u64);

/// How a flight ended.
#[derive(Clone, Debug)]
pub(crate) struct Landing {
    /// What every waiter is told.
    pub result: Result<(), FillError>,
    /// The priority the flight had: a reader does not take an error from readahead.
    pub priority: Priority,
}

/// A waiter's hold on a flight. Dropping it leaves the flight alone.
#[derive(Debug)]
pub(crate) struct Ticket(watch::Receiver<Option<Landing>>);

impl Ticket {
    /// Waits until the flight has landed, or was lost.
    pub async fn wait(&mut self) {
        let _lost = self.0.wait_for(Option::is_some).await;
    }

    /// Waits until the flight has landed; `None` when it was lost without a word (its task is gone).
    pub async fn landed(mut self) -> Option<Landing> {
        let landing = self.0.wait_for(Option::is_some).await.ok()?;
        landing.clone()
    }
}

/// What came of asking for a chunk.
#[derive(Debug)]
pub(crate) enum Booked {
    /// Somebody brings it already.
    Joined(Ticket),
    /// It is now the caller's to bring: nobody did, or it only stood in a queue behind the caller.
    Mine(Ticket),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    /// Booked, but waiting for its turn: may be overtaken.
    Queued,
    /// On the wire.
    Flying,
}

#[derive(Debug)]
struct Flight {
    booking: BookingId,
    priority: Priority,
    phase: Phase,
    landing: watch::Sender<Option<Landing>>,
}

/// The flights of one blob, by chunk number.
#[derive(Debug, Default)]
pub(crate) struct FlightTable {
    flights: HashMap<u32, Flight>,
    bookings: u64,
}

impl FlightTable {
    /// Opens a booking.
    pub fn open_booking(&mut self) -> BookingId {
        self.bookings += 1;
        BookingId(self.bookings)
    }

    /// Joins the flight of `chunk`, or starts one. A flight that is still queued at a lower priority is taken over,
    /// with everyone who waits for it.
    pub fn book(&mut self, chunk: u32, booking: BookingId, priority: Priority) -> Booked {
        let Some(flight) = self.flights.get_mut(&chunk) else {
            let (landing, ticket) = watch::channel(None);
            self.flights.insert(chunk, Flight { booking, priority, phase: Phase::Queued, landing });
            return Booked::Mine(Ticket(ticket));
        };
        let ticket = Ticket(flight.landing.subscribe());
        if flight.phase == Phase::Queued && flight.priority < priority {
            flight.booking = booking;
            flight.priority = priority;
            return Booked::Mine(ticket);
        }
        Booked::Joined(ticket)
    }

    /// Puts a queued chunk on the wire; false when it is no longer this booking's to bring.
    pub fn take_off(&mut self, chunk: u32, booking: BookingId) -> bool {
        match self.flights.get_mut(&chunk) {
            Some(flight) if flight.booking == booking && flight.phase == Phase::Queued => {
                flight.phase = Phase::Flying;
                true
            }
            _ => false,
        }
    }

    /// Has another booking bring a chunk that `from` could not: it stands in the queue again, with everyone who waits for
    /// it. False when it was not `from`'s.
    pub fn hand_over(&mut self, chunk: u32, from: BookingId, to: BookingId) -> bool {
        match self.flights.get_mut(&chunk) {
            Some(flight) if flight.booking == from => {
                (flight.booking, flight.phase) = (to, Phase::Queued);
                true
            }
            _ => false,
        }
    }

    /// Ends the flight of `chunk` and tells its waiters; a chunk that is not this booking's is left alone.
    pub fn land(&mut self, chunk: u32, booking: BookingId, result: Result<(), FillError>) {
        if self.flights.get(&chunk).is_some_and(|flight| flight.booking == booking)
            && let Some(flight) = self.flights.remove(&chunk)
        {
            flight.landing.send_replace(Some(Landing { result, priority: flight.priority }));
        }
    }

    /// Number of chunks queued or on the wire.
    pub fn len(&self) -> usize {
        self.flights.len()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn landed(ticket: Ticket) -> Option<Landing> {
        ticket.landed().now_or_never().expect("the flight has landed")
    }

    #[test]
    fn the_first_one_brings_and_the_others_join() {
        let mut table = FlightTable::default();
        let (first, second) = (table.open_booking(), table.open_booking());
        let Booked::Mine(a) = table.book(7, first, Priority::Demand) else { panic!("nobody brings it yet") };
        let Booked::Joined(b) = table.book(7, second, Priority::Demand) else {
            panic!("it is being brought")
        };
        assert!(table.take_off(7, first));
        table.land(7, first, Ok(()));
        assert!(landed(a).is_some_and(|l| l.result.is_ok()));
        assert!(landed(b).is_some_and(|l| l.result.is_ok()));
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn an_error_reaches_every_waiter_and_the_next_one_starts_afresh() {
        let mut table = FlightTable::default();
        let first = table.open_booking();
        let Booked::Mine(a) = table.book(1, first, Priority::Demand) else { panic!("nobody brings it yet") };
        let Booked::Joined(b) = table.book(1, first, Priority::Demand) else { panic!("it is being brought") };
        table.land(1, first, Err(FillError::Abandoned { blob: "b".into() }));
        assert!(landed(a).is_some_and(|l| l.result.is_err()));
        assert!(landed(b).is_some_and(|l| l.result.is_err()));
        let again = table.open_booking();
        assert!(matches!(table.book(1, again, Priority::Demand), Booked::Mine(_)));
    }

    #[test]
    fn demand_overtakes_what_is_only_queued_and_joins_what_flies() {
        let mut table = FlightTable::default();
        let (ahead, demand) = (table.open_booking(), table.open_booking());
        let Booked::Mine(waits) = table.book(1, ahead, Priority::Readahead) else {
            panic!("nobody brings it yet")
        };
        table.book(2, ahead, Priority::Readahead);
        assert!(table.take_off(2, ahead));

        assert!(matches!(table.book(1, demand, Priority::Demand), Booked::Mine(_)));
        assert!(matches!(table.book(2, demand, Priority::Demand), Booked::Joined(_)));

        assert!(!table.take_off(1, ahead), "the overtaken one must not fetch it too");
        table.land(1, ahead, Err(FillError::Abandoned { blob: "b".into() }));
        assert_eq!(table.len(), 2, "and cannot end a flight that is no longer its own");
        assert!(table.take_off(1, demand));
        table.land(1, demand, Ok(()));
        let landing = landed(waits).expect("who waited before is told as well");
        assert!(landing.result.is_ok());
        assert_eq!(landing.priority, Priority::Demand);
    }

    #[test]
    fn readahead_never_overtakes_demand_nor_demand_demand() {
        let mut table = FlightTable::default();
        let (demand, other) = (table.open_booking(), table.open_booking());
        table.book(1, demand, Priority::Demand);
        assert!(matches!(table.book(1, other, Priority::Readahead), Booked::Joined(_)));
        assert!(matches!(table.book(1, other, Priority::Demand), Booked::Joined(_)));
    }

    #[test]
    fn a_waiter_that_goes_away_leaves_the_flight_to_the_others() {
        let mut table = FlightTable::default();
        let first = table.open_booking();
        drop(table.book(1, first, Priority::Demand));
        let Booked::Joined(ticket) = table.book(1, first, Priority::Demand) else {
            panic!("it is being brought")
        };
        assert!(table.take_off(1, first));
        table.land(1, first, Ok(()));
        assert!(landed(ticket).is_some_and(|l| l.result.is_ok()));
    }

    #[test]
    fn a_lost_table_ends_the_wait() {
        let mut table = FlightTable::default();
        let first = table.open_booking();
        let Booked::Mine(ticket) = table.book(1, first, Priority::Demand) else {
            panic!("nobody brings it yet")
        };
        drop(table);
        assert!(landed(ticket).is_none());
    }
}
