# wslmirror for NixOS-WSL:
#
#     inputs.wslmirror.url = "github:wslmirror/wslmirror";
#     imports = [ inputs.wslmirror.nixosModules.default ];
#     services.wslmirror.enable = true;
#
# UNTESTED: it was evaluated against stand-ins for nixpkgs, and never built or
# booted. Reports are welcome.
{
  description = "Windows' localhost for container ports in WSL2 modes with a shared localhost";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      # The first entry of the changelog is the one place of the version.
      version = builtins.head (
        builtins.elemAt (builtins.split "\n- semver: ([0-9.]+)-" (builtins.readFile ./packaging/changelog.yaml)) 1
      );
      package =
        { buildGoModule, installShellFiles }:
        buildGoModule {
          pname = "wslmirror";
          inherit version;
          src = self;
          # A test compares it with what "go mod vendor" makes.
          vendorHash = "sha256-jRO7fYIm+r+x1shWjhssu9t+UmF8rHGaIuDz4awvjfo=";
          subPackages = [ "cmd/wslmirror" ];
          env.CGO_ENABLED = 0;
          ldflags = [
            "-s"
            "-w"
            "-X main.version=${version}"
          ];
          doCheck = false; # the tests build networks and boot distributions
          nativeBuildInputs = [ installShellFiles ];
          postInstall = ''
            installManPage packaging/wslmirror.8
            installShellCompletion packaging/completion/wslmirror.{bash,fish,zsh}
            install -D -m 644 systemd/wslmirror.service -t $out/lib/systemd/system
            substituteInPlace $out/lib/systemd/system/wslmirror.service \
              --replace-fail /usr/bin/wslmirror $out/bin/wslmirror
          '';
          meta = {
            description = "Windows' localhost for container ports in WSL2";
            homepage = "https://github.com/wslmirror/wslmirror";
            license = lib.licenses.asl20;
            platforms = lib.platforms.linux;
            mainProgram = "wslmirror";
          };
        };
    in
    {
      packages = lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] (system: {
        default = nixpkgs.legacyPackages.${system}.callPackage package { };
      });

      nixosModules.default =
        { config, pkgs, ... }:
        let
          cfg = config.services.wslmirror;
        in
        {
          options.services.wslmirror = {
            enable = lib.mkEnableOption "wslmirror";
            package = lib.mkOption {
              type = lib.types.package;
              default = self.packages.${pkgs.stdenv.hostPlatform.system}.default;
              description = "The package of wslmirror.";
            };
            options = lib.mkOption {
              type = lib.types.str;
              default = "";
              example = "--path direct --to-windows 11434";
              description = "Options of `wslmirror run`.";
            };
          };
          config = lib.mkIf cfg.enable {
            environment.systemPackages = [ cfg.package ];
            environment.etc."default/wslmirror".text = "WSLMIRROR_OPTS=\"${cfg.options}\"\n";
            systemd.packages = [ cfg.package ];
            systemd.services.wslmirror = {
              wantedBy = [ "multi-user.target" ];
              restartTriggers = [ cfg.options ];
            };
          };
        };
    };
}
