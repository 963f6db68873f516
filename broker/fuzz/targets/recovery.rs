#![no_main]
ringq_fuzz::program!(nsq_log::fuzz::RECOVERY);
