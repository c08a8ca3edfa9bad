//! What the site and the user have set, each with where it comes from.

use super::Finding;
use crate::cmd::run_settings;
use crate::container::inject::Devices;
use crate::site::{self, Setting, Settings};

pub fn findings() -> Vec<Finding> {
    let about = "settings";
    let settings = match Settings::load().and_then(|settings| run_settings::check(&settings).map(|()| settings)) {
        Ok(settings) => settings,
        Err(e) => return vec![Finding::bad(about, e.to_string(), e.get_hint().unwrap_or("mend that line"))],
    };
    if settings.all().is_empty() {
        let places: Vec<String> = site::places().iter().map(|path| path.display().to_string()).collect();
        return vec![Finding::good(about, format!("none in {}", places.join(", ")))];
    }
    settings.all().iter().map(|setting| Finding::good(about, line(setting))).collect()
}

fn line(setting: &Setting) -> String {
    let absent = if run_settings::is_absent(setting, &Devices::default()) { " (not there)" } else { "" };
    format!("{}{absent}, says {setting}", setting.shown())
}
