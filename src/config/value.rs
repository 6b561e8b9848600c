//! Values with a unit: durations, sizes and rates.
//!
//! A number without a unit is rejected: `timeout = 30` could mean seconds or milliseconds.

use std::time::Duration;

use crate::base::rate::Rate;

pub fn duration(text: &str) -> Result<Duration, String> {
    let (count, unit) = split(text).ok_or_else(|| {
        format!("`{text}` is not a duration; write \"250ms\", \"30s\", \"5m\", \"1h\" or \"30d\"")
    })?;
    let scaled = |seconds: u64| count.checked_mul(seconds).map(Duration::from_secs);
    let duration = match unit {
        "ms" => Some(Duration::from_millis(count)),
        "s" => scaled(1),
        "m" => scaled(60),
        "h" => scaled(3600),
        "d" => scaled(86_400),
        "" => {
            return Err(format!(
                "`{text}` has no unit; write \"{text}s\" for seconds (units: ms, s, m, h, d)"
            ));
        }
        _ => return Err(format!("`{unit}` is not a unit of time; the units are ms, s, m, h, d")),
    };
    // A limit of a century prevents overflow in clock arithmetic.
    duration
        .filter(|d| d.as_secs() <= 100 * 366 * 86_400)
        .ok_or_else(|| format!("`{text}` is too long; the longest duration is 100 years"))
}

pub fn size(text: &str) -> Result<usize, String> {
    let (count, unit) = split(text)
        .ok_or_else(|| format!("`{text}` is not a size; write \"512B\", \"16KiB\" or \"1MiB\""))?;
    let factor: u64 = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "" => {
            return Err(format!(
                "`{text}` has no unit; write \"{text}B\" for bytes (units: B, KiB, MiB, GiB)"
            ));
        }
        _ => return Err(format!("`{unit}` is not a unit of size; the units are B, KiB, MiB, GiB")),
    };
    let bytes = count
        .checked_mul(factor)
        .and_then(|bytes| usize::try_from(bytes).ok())
        .filter(|bytes| *bytes > 0);
    bytes.ok_or_else(|| format!("`{text}` is zero or too large"))
}

pub fn rate(text: &str) -> Result<Rate, String> {
    let wrong = || format!("`{text}` is not a rate; write \"60/1m\" for 60 in one minute");
    let (count, per) = text.split_once('/').ok_or_else(wrong)?;
    let (count, per) = (count.trim(), per.trim());
    if matches!(per, "ms" | "s" | "m" | "h" | "d") {
        return Err(format!(
            "`{text}` has a unit of time without a number; write \"{count}/1{per}\""
        ));
    }
    let count = count.parse().map_err(|_| wrong())?;
    let per = duration(per)?;
    if count == 0 || per.is_zero() { Err(wrong()) } else { Ok(Rate { count, per }) }
}

fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (count, unit) = text.split_at_checked(end)?;
    Some((count.parse().ok()?, unit.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_carries_its_unit() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("30d"), Ok(Duration::from_secs(2_592_000)));
        assert_eq!(size("16KiB"), Ok(16_384));
        assert_eq!(size("512B"), Ok(512));
        assert_eq!(rate("60/1m"), Ok(Rate { count: 60, per: Duration::from_secs(60) }));
    }

    #[test]
    fn a_value_without_a_unit_says_which_to_add() {
        assert!(duration("30").unwrap_err().contains("\"30s\""));
        assert!(size("30").unwrap_err().contains("\"30B\""));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in
            ["", "s", "-1s", "1.5s", "30x", "99999999999999999999s", "18446744073709551615d"]
        {
            assert!(duration(text).is_err(), "{text}");
        }
        assert!(rate("60/m").unwrap_err().contains("write \"60/1m\""));
        for text in ["60", "60/m", "0/1m", "60/0s", "60/1", "x/1m"] {
            assert!(rate(text).is_err(), "{text}");
        }
        assert!(size("18446744073709551615GiB").is_err());
    }
}
