//! Moments as RFC 3339 text in UTC, with nanoseconds.

use proxsave_proto::digest::Timestamp;

/// `2026-11-24T09:48:39.012345678Z`. Years outside 0 to 9999 are written as they are, which RFC 3339 does not have.
pub(super) fn rfc3339(moment: Timestamp) -> String {
    let days = moment.secs.div_euclid(86_400);
    let second_of_day = moment.secs.rem_euclid(86_400);
    let (year, month, day) = civil_from_days(days);
    let (hour, minute, second) = (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:09}Z", moment.nanos)
}

/// The time now, by the host's clock.
pub(super) fn now() -> Timestamp {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    Timestamp { secs: now.tv_sec, nanos: u32::try_from(now.tv_nsec).unwrap_or(0) }
}

/// Year, month and day of the Gregorian calendar, `days` after 1970-01-01.
///
/// Counts in eras of 400 years (146,097 days) and in years that begin in March, so that the leap day is the last
/// day of its year and needs no special case.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    // 719,468 days lie between 0000-03-01 and 1970-01-01.
    let shifted = days.saturating_add(719_468);
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Months from March have 31, 30, 31, 30, 31 days in turn: 153 days for five.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(secs: i64) -> String {
        rfc3339(Timestamp { secs, nanos: 0 })
    }

    #[test]
    fn known_moments() {
        assert_eq!(text(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(text(951_782_400), "2000-02-29T00:00:00.000000000Z");
        assert_eq!(text(1_709_251_199), "2024-02-29T23:59:59.000000000Z");
        assert_eq!(text(4_107_542_400), "2100-03-01T00:00:00.000000000Z");
        assert_eq!(text(-1), "1969-12-31T23:59:59.000000000Z");
        assert_eq!(text(253_402_300_799), "9999-12-31T23:59:59.000000000Z");
        assert_eq!(text(-62_167_219_200), "0000-01-01T00:00:00.000000000Z");
        assert_eq!(rfc3339(Timestamp { secs: 1, nanos: 42 }), "1970-01-01T00:00:01.000000042Z");
    }

    /// Walks every day of nine centuries by the calendar's own rules.
    #[test]
    fn every_day_follows_the_one_before() {
        let leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let (mut year, mut month, mut day) = (1600, 1, 1);
        for days in -135_140..200_000 {
            assert_eq!(civil_from_days(days), (year, month, day));
            let length = match month {
                2 if leap(year) => 29,
                2 => 28,
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            day += 1;
            if day > length {
                (month, day) = (month + 1, 1);
            }
            if month > 12 {
                (year, month) = (year + 1, 1);
            }
        }
    }
}
