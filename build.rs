//! Compiles the protocols without protoc and writes what must not be forgotten by hand: `Debug` for every message
//! with a secret field.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::{env, error::Error, fs};

use protox::Compiler;
use protox::prost_reflect::{DescriptorPool, FieldDescriptor, MessageDescriptor, Value};

type Fallible<T> = Result<T, Box<dyn Error>>;

fn main() -> Fallible<()> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-env-changed=GIT_SHA");
    let sha = env::var("GIT_SHA").unwrap_or_else(|_| "unknown".to_owned());
    println!("cargo:rustc-env=GIT_SHA={sha}");
    if env::var("CARGO_CFG_TARGET_ENV").as_deref() == Ok("musl") {
        // The static program relocates itself at its start, from a table of 24 bytes for each address; packed it is a
        // bit for most. A linker that does not know the option says so and goes on.
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }

    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut compiler = Compiler::new(["proto"])?;
    compiler.include_source_info(true).include_imports(true);
    compiler.open_files(["csi.proto", "pluginregistration.proto"])?;
    // The encoded form keeps the extension options (csi_secret, alpha_*), which prost's types drop.
    fs::write(
        out.join("descriptors.bin"),
        compiler.encode_file_descriptor_set(),
    )?;

    let pool = compiler.descriptor_pool();
    let secret = messages_with_secrets(&pool)?;
    tonic_prost_build::configure()
        .build_transport(true)
        .skip_debug(
            secret
                .iter()
                .map(|message| format!(".{}", message.full_name())),
        )
        .compile_fds(compiler.file_descriptor_set())?;
    fs::write(out.join("csi_debug.rs"), debug_impls(&secret, &pool)?)?;
    Ok(())
}

fn is_secret(field: &FieldDescriptor, pool: &DescriptorPool) -> Fallible<bool> {
    let option = pool
        .get_extension_by_name("csi.v1.csi_secret")
        .ok_or("csi_secret is gone")?;
    Ok(matches!(
        field.options().get_extension(&option).as_ref(),
        Value::Bool(true)
    ))
}

fn messages_with_secrets(pool: &DescriptorPool) -> Fallible<Vec<MessageDescriptor>> {
    let mut found = Vec::new();
    for message in pool.all_messages() {
        for field in message.fields() {
            if is_secret(&field, pool)? {
                found.push(message.clone());
                break;
            }
        }
    }
    Ok(found)
}

fn debug_impls(messages: &[MessageDescriptor], pool: &DescriptorPool) -> Fallible<String> {
    let mut code = String::new();
    for message in messages {
        let name = message.name();
        if message.parent_message().is_some() || message.oneofs().any(|o| !o.is_synthetic()) {
            return Err(
                format!("{name}: nested messages and oneofs with secrets are not handled").into(),
            );
        }
        writeln!(code, "impl std::fmt::Debug for {name} {{")?;
        writeln!(
            code,
            "fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {{"
        )?;
        writeln!(code, "f.debug_struct(\"{name}\")")?;
        for field in message.fields() {
            let field_name = field.name();
            if is_secret(&field, pool)? {
                writeln!(
                    code,
                    ".field(\"{field_name}\", &format_args!(\"<{{}} redacted>\", self.{field_name}.len()))"
                )?;
            } else {
                writeln!(code, ".field(\"{field_name}\", &self.{field_name})")?;
            }
        }
        writeln!(code, ".finish() }} }}")?;
    }
    Ok(code)
}
