//! A plan as text.

use std::fmt;
use std::str::FromStr;

use super::{Kind, Plan};
use crate::{Error, Site};

pub(super) fn parse(text: &str) -> Result<Plan, Error> {
    let mut plan = Plan::new(0);
    for word in text.split_whitespace() {
        let (name, value) = word.split_once('=').ok_or_else(|| Error::Word { word: word.into() })?;
        plan = match name {
            "seed" => Plan { seed: number(word, value, "a 64-bit number")?, ..plan },
            "budget" => plan.budget(number(word, value, "a 64-bit number")?),
            "state" => plan.state(value),
            _ => site_word(plan, name, value)?,
        };
    }
    Ok(plan)
}

fn site_word(mut plan: Plan, name: &str, value: &str) -> Result<Plan, Error> {
    let sites = sites(name);
    if sites.is_empty() {
        return Err(Error::Site { name: name.into() });
    }
    let is_group = name.ends_with('*');
    for fault in value.split('+') {
        if let Some(nth) = fault.strip_prefix("die@") {
            let nth = number(fault, nth, "the number of a visit, counted from 1")?;
            plan = sites.iter().fold(plan, |plan, site| plan.die_at(*site, nth));
            continue;
        }
        let (kind, rate) = fault.split_once(':').ok_or_else(|| Error::Word { word: fault.into() })?;
        let kind =
            Kind::from_name(kind).ok_or_else(|| Error::Kind { site: name.into(), kind: kind.into() })?;
        let rate = number(fault, rate, "a rate of 0 to 1000000")?;
        for site in &sites {
            if kind.strikes(*site) || !is_group {
                plan = plan.rate(*site, kind, rate)?;
            }
        }
    }
    Ok(plan)
}

/// The sites that a name stands for: one, a layer's with `layer.*`, all with `*`.
fn sites(name: &str) -> Vec<Site> {
    let meant = |site: &Site| match name.strip_suffix('*') {
        Some(prefix) => prefix.is_empty() || prefix.strip_suffix('.') == Some(site.layer()),
        None => site.name() == name,
    };
    Site::ALL.iter().copied().filter(meant).collect()
}

fn number<T: FromStr>(word: &str, text: &str, expected: &'static str) -> Result<T, Error> {
    text.parse().map_err(|_| Error::Number { word: word.into(), expected })
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed={}", self.seed)?;
        if self.budget != u64::MAX {
            write!(f, " budget={}", self.budget)?;
        }
        if let Some(path) = &self.state {
            write!(f, " state={}", path.display())?;
        }
        for site in Site::ALL {
            let faults = self.faults_at(*site);
            if !faults.is_empty() {
                write!(f, " {}={}", site.name(), faults.join("+"))?;
            }
        }
        Ok(())
    }
}

impl Plan {
    fn faults_at(&self, site: Site) -> Vec<String> {
        let rates = &self.rates[site.index()];
        let rated = Kind::ALL.iter().filter(|kind| rates[kind.index()] > 0);
        let rated = rated.map(|kind| format!("{}:{}", kind.name(), rates[kind.index()]));
        let deaths = self.deaths.iter().filter(|(at, _)| *at == site);
        rated.chain(deaths.map(|(_, nth)| format!("die@{nth}"))).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_text_says_what_the_calls_say() {
        let text = "seed=7 budget=9 state=/x cachefiles.pwrite=eio:1000+short:5000 ondemand.verified=die@3";
        let expected = Plan::new(7)
            .budget(9)
            .state("/x")
            .rate(Site::CachefilesPwrite, Kind::Eio, 1000)
            .and_then(|plan| plan.rate(Site::CachefilesPwrite, Kind::Short, 5000))
            .expect("possible")
            .die_at(Site::OndemandVerified, 3);
        assert_eq!(Plan::parse(text).expect("a plan"), expected);
        assert_eq!(expected.to_string(), text);
    }

    #[test]
    fn a_group_reaches_every_site_that_can_have_the_fault_and_no_other() {
        let plan = Plan::parse("seed=1 cachefiles.*=short:1000000").expect("a plan");
        for site in Site::ALL {
            let expected = site.layer() == "cachefiles" && Kind::Short.strikes(*site);
            assert_eq!(plan.strike(*site, 1).is_some(), expected, "{}", site.name());
        }
        let plan = Plan::parse("*=pause:1000000").expect("a plan");
        assert!(Site::ALL.iter().all(|site| plan.strike(*site, 1).is_some()));
    }

    #[test]
    fn what_is_no_plan_is_refused_by_name() {
        for (text, part) in [
            ("seed", "\"seed\""),
            ("seed=x", "\"seed=x\""),
            ("cachefiles.pwrit=eio:1", "cachefiles.pwrit"),
            ("cache*=eio:1", "cache*"),
            ("cachefiles.pwrite=eoi:1", "\"eoi\""),
            ("cachefiles.pwrite=eio", "\"eio\""),
            ("cachefiles.pwrite=eio:-1", "\"eio:-1\""),
            ("cachefiles.pwrite=eio:1000001", "cachefiles.pwrite"),
            ("cachefiles.pwrite=die@x", "\"die@x\""),
            ("cachefiles.rename=short:1", "cachefiles.rename"),
        ] {
            let error = Plan::parse(text).expect_err(text);
            assert!(error.to_string().contains(part) && error.hint().is_some(), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_plan_or_refused(text in "[a-z.*=:+@0-9 ]{0,60}") {
            if let Ok(plan) = Plan::parse(&text) {
                prop_assert_eq!(Plan::parse(&plan.to_string()).expect("its own text"), plan);
            }
        }
    }
}
