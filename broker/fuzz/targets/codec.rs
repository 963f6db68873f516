#![no_main]
ringq_fuzz::program!(nsq_client::fuzz::CODEC);
