#!/usr/bin/env bash
# Lists, for each namespace, what moves from the Secrets Store CSI driver to
# Mayfly as it is, what warns, and what blocks, with the way out. It only reads.
# docs/migrate.md says how to use it.
set -euo pipefail

# What is read of the cluster. With --from each is a file DIR/NAME.json.
resources=(
  secretproviderclasses.secrets-store.csi.x-k8s.io csidrivers.storage.k8s.io
  pods replicasets.apps deployments.apps statefulsets.apps daemonsets.apps
  jobs.batch cronjobs.batch ingresses.networking.k8s.io serviceaccounts
)

usage() {
  cat <<TEXT
Usage: migrate-check.sh [--values FILE] [--driver NAME] [--from DIR]

Lists what moves from the Secrets Store CSI driver to Mayfly, by namespace:
  moves    works as it is
  warns    works, but read the line below it
  blocks   does not work, or loses something, until the way out is taken

  --values FILE  the values of Mayfly's chart that you mean to install with, as
                 JSON, which Helm takes too (default: those of the chart)
  --driver NAME  the driver that pods name now (default: secrets-store.csi.k8s.io)
  --from DIR     read the files DIR/NAME.json, which "kubectl get NAME
                 --all-namespaces --output json" wrote, and ask no cluster. NAME is
$(printf '                   %s\n' "${resources[@]}")

Exit code: 0 if nothing blocks, 1 if something does, 2 if the check failed.
It needs bash, jq 1.6 or later, kubectl unless --from is given, and the right to
list these resources. It reads no Secret.
TEXT
}

fail() {
  printf 'migrate-check.sh: %s\n' "$*" >&2
  exit 2
}

values='' driver=secrets-store.csi.k8s.io from=''
while [ $# -gt 0 ]; do
  case $1 in
    --help | -h) usage; exit 0 ;;
    --values | --driver | --from)
      [ -n "${2:-}" ] || fail "$1 needs a value"
      case $1 in
        --values) values=$2 ;;
        --driver) driver=$2 ;;
        --from) from=$2 ;;
      esac
      shift 2
      ;;
    *) fail "unknown argument $1; --help lists them" ;;
  esac
done
command -v jq >/dev/null || fail "jq is not installed"

umask 077 # pod templates may hold what should be in a Secret
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [ -z "$values" ]; then
  echo '{}' >"$work/values.json"
elif ! jq -es 'length == 1 and (.[0] | type == "object")' "$values" >"$work/check" 2>"$work/error"; then
  fail "--values $values is not one JSON object: $(cat "$work/error" "$work/check")"
else
  cp "$values" "$work/values.json"
fi

for resource in "${resources[@]}"; do
  file=$work/$resource.json
  if [ -n "$from" ]; then
    [ -r "$from/$resource.json" ] || fail "$from/$resource.json is missing: make it by" \
      "kubectl get $resource --all-namespaces --output json >$from/$resource.json"
    file=$from/$resource.json
  else
    command -v kubectl >/dev/null || fail "kubectl is not installed"
    kubectl get "$resource" --all-namespaces --output json >"$file" || fail "listing $resource failed"
  fi
  jq '.items | map({kind, metadata, spec, status, imagePullSecrets})' "$file" >>"$work/lists.json" 2>"$work/error" ||
    fail "$file is not a list as kubectl writes it: $(cat "$work/error")"
done

cat >"$work/program.jq" <<'JQ'
# The chart's values that matter here, with its defaults.
def defaults: {
  tokenRequests: [{audience: "vault"}],
  allowLocalAddresses: false,
  classFiles: {directories: []},
  vault: {address: "", fallbackAddress: "", authMountPath: "kubernetes", audience: "", allowedAddresses: [], allowedAuthMountPaths: [], forbidSkipVerify: false},
  akeyless: {gatewayURL: "", fallbackGatewayURL: "", k8sAuthConfig: "", audience: "akeyless", allowedAddresses: [], forbidSkipVerify: false},
  providerPlugins: {enabled: false},
  health: {port: 9808},
  metrics: {address: ":8095"},
  linux: {
    hostNetwork: false, providersDir: "/var/run/secrets-store-csi-providers",
    additionalProvidersDirs: ["/etc/kubernetes/secrets-store-csi-providers"]
  }
};

# Values under the names that the chart had before.
def moved($old; $new): getpath($old) as $value | if $value == null then . else setpath($new; $value) end;
def renamed:
  moved(["vault", "authMount"]; ["vault", "authMountPath"])
  | moved(["vault", "allowedAuthMounts"]; ["vault", "allowedAuthMountPaths"])
  | moved(["linux", "metricsAddr"]; ["metrics", "address"])
  | moved(["livenessProbe", "port"]; ["health", "port"]);

def warns($what; $out): {level: 1, what: $what, out: $out};
def blocks($what; $out): {level: 2, what: $what, out: $out};
def level: map(.level) | max // 0;
def quoted: map(tojson) | join(", ");
def set: . != null and . != "";
def given: select(set);
def clean: gsub("^/+|/+$"; "");

# A server as classes and lists of the operator write it.
def server:
  (capture("^(?<scheme>https?)://(?<host>\\[[^]]*\\]|[^][/:?#@]+)(:(?<port>[0-9]+|\\*))?([/?#]|$)"; "i") // null)
  | if . == null then null else
      .scheme |= ascii_downcase | .host |= (ascii_downcase | rtrimstr("."))
      | .port = (.port // (if .scheme == "https" then "443" else "80" end))
    end;
def covers($a): # a pattern of the operator, for the server of a class
  .scheme == $a.scheme and (.port == "*" or .port == $a.port)
  and (.host == $a.host
       or ((.host | startswith("*.")) and ($a.host | contains(".")) and .host[2:] == ($a.host | sub("^[^.]+\\."; ""))));
def names($a): (.port == "*" or .port == $a.port) and .host == $a.host;
def local: test("^(localhost|.*\\.localhost|127\\.[0-9.]+|0\\.[0-9.]+|169\\.254\\.[0-9.]+|22[4-9]\\.[0-9.]+|23[0-9]\\.[0-9.]+|255\\.255\\.255\\.255|168\\.63\\.129\\.16|100\\.100\\.100\\.200|192\\.0\\.0\\.192|\\[::1?\\]|\\[fe[89ab].*\\]|\\[ff.*\\])$");

# May a class name this server? "own" are the first and the second one of the operator.
def server_findings($parameter; $own; $allowed; $value; $list; $v):
  . as $text | server as $a
  | (if $allowed | index("*") then [] elif ($allowed == []) and ($own[0] | set) then [$own[0]] else $allowed end) as $allowed
  | [$own[] | given | server | select(. != null)] as $mine
  | [$allowed[] | server | select(. != null)] as $patterns
  | if $own | index([$text]) then empty
    elif $a == null then
      blocks("\($parameter) is \($text | tojson): a class names a server by http:// or https://";
        "leave \($parameter) out of the class, and set \($value) to it")
    elif ($a.host | local) and ($v.allowLocalAddresses | not)
        and ([$patterns[], $mine[]] | any(names($a)) | not) then
      blocks("\($parameter) is \($text | tojson), an address of the node itself or of its links";
        "name the server itself, or list this address in \($list)")
    elif ($allowed | length) > 0 and ([$patterns[], $mine[]] | any(covers($a)) | not) then
      blocks("\($parameter) is \($text | tojson), which \($list) does not list"; "add it to \($list)")
    else empty end;

def file_findings($v): # of the parameters {name, value} that name files
  (["/etc/mayfly/class-files", "/etc/mayfly/vault-ca"] + $v.classFiles.directories | map(sub("/+$"; ""))) as $directories
  | select(.value as $path | $directories | any(. as $d | $path == $d or ($path | startswith($d + "/"))) | not)
  | blocks("\(.name) is \(.value | tojson), where classes may name no file";
      "mount its ConfigMap or Secret by classFiles and name it there, or list its directory in classFiles.directories");

def audience_findings($audience; $v):
  select([$v.tokenRequests[].audience // ""] | index([$audience]) == null)
  | blocks("needs a service account token for the audience \($audience | tojson), which tokenRequests does not list";
      "add {audience: \($audience | tojson)} to tokenRequests")
    + {audience: $audience};

def vault_findings($v):
  (.spec.provider) as $provider | (.spec.parameters // {}) as $p
  | (if $provider == "openbao" then ["bao", "openbao", "vault"] else ["vault"] end) as $prefixes
  | def named($suffix): first(($prefixes[] + $suffix) | select($p[.] | given)) // null;
    (if $p.audience | set then (if $p.audience == "apiserver" then "" else $p.audience end)
     else ($v.vault.audience | given) // $provider end | audience_findings(.; $v)),
    ([$v.vault.address, $v.vault.fallbackAddress] as $own
     | named("Address", "FallbackAddress") | select(. != null) as $name
     | $p[$name] | server_findings($name; $own; $v.vault.allowedAddresses; "vault.address"; "vault.allowedAddresses"; $v)),
    (select(named("Address") == null and ($v.vault.address | set | not))
     | blocks("names no server, and vault.address is not set"; "set vault.address to what the old provider's -vault-addr is")),
    ((named("AuthMountPath") // named("KubernetesMountPath")) as $name
     | select($name != null and ($v.vault.allowedAuthMountPaths | length) > 0)
     | select([$v.vault.allowedAuthMountPaths[], $v.vault.authMountPath] | map(clean) | index($p[$name] | clean) == null)
     | blocks("\($name) is \($p[$name] | tojson), which vault.allowedAuthMountPaths does not list"; "add it to vault.allowedAuthMountPaths")),
    (named("SkipTLSVerify") as $name
     | select($name != null and $v.vault.forbidSkipVerify and ($p[$name] | ascii_downcase | IN("true", "t", "1")))
     | blocks("\($name) is set, which vault.forbidSkipVerify refuses"; "give the class, or vault.tls.caConfigMap, the certificate authority")),
    (named("CACertPath", "CADirectory", "TLSClientCertPath", "TLSClientKeyPath") | select(. != null) | {name: ., value: $p[.]} | file_findings($v)),
    (($p.objects // "") as $objects
     | select(([$objects | scan("objectName")] | length) > ([$objects | scan("secretKey")] | length))
     | warns("an object seems to have no secretKey: its file holds the answer as JSON, here without request_id and what else changes at each read";
         "nothing, unless the application reads those fields"));

def akeyless_findings($v):
  (.spec.parameters // {}) as $p
  | (if $p.akeylessAccessType | set then $p.akeylessAccessType
     elif [$p.akeylessK8sAuthConfigName, $v.akeyless.k8sAuthConfig] | any(set) then "k8s"
     elif $p.akeylessUIDInitToken | set then "universal_identity" else "access_key" end) as $type
  | {aws_iam: "akeylessAWSRoleARN", azure_ad: "akeylessAzureClientID", gcp: "akeylessGCPWorkloadProvider"}[$type] as $needs
  | (select($needs != null and ($p[$needs] | set | not))
     | blocks("akeylessAccessType is \($type), with which the driver logs in as the pod and not as the node: \($needs) is missing";
         "set up workload identity for the service account, and set the parameters of docs/akeyless.md#access-types")),
    (({k8s: $v.akeyless.audience, jwt: $v.akeyless.audience, aws_iam: "sts.amazonaws.com", azure_ad: "api://AzureADTokenExchange"}[$type]) as $default
     | (if $p.audience == "apiserver" then "" else ($p.audience | given) // $default end)
     | select(. != null and ($type | IN("access_key", "universal_identity") | not)) | audience_findings(.; $v)),
    ([$v.akeyless.gatewayURL, $v.akeyless.fallbackGatewayURL] as $own
     | "akeylessGatewayURL", "akeylessFallbackGatewayURL", "akeylessK8sGatewayURL" | . as $name | $p[$name] | given
     | server_findings($name; $own; $v.akeyless.allowedAddresses; "akeyless.gatewayURL"; "akeyless.allowedAddresses"; $v)),
    (select($v.akeyless.forbidSkipVerify) | "akeylessSkipTLSVerify", "akeylessCACert" | select(. as $name | $p[$name] | given | . != "false")
     | blocks("\(.) is set, which akeyless.forbidSkipVerify refuses"; "leave it out of the class")),
    ("akeylessCACertPath", "akeylessCADirectory", "akeylessTLSClientCertPath", "akeylessTLSClientKeyPath"
     | . as $name | {name: ., value: ($p[.] | given)} | file_findings($v));

# Stores that Mayfly reaches through a plugin. $plugins are its DaemonSets.
def plugin_findings($v; $plugins):
  .spec.provider as $provider | (.spec.parameters // {}) as $p
  | (select($plugins | length == 0)
     | blocks("provider \($provider | tojson) is a plugin, and no DaemonSet of the cluster has a directory of plugins' sockets";
         "install the provider: docs/plugins.md")),
    (select($v.providerPlugins.enabled | not)
     | blocks("provider \($provider | tojson) is a plugin, and plugins are off"; "set providerPlugins.enabled: true")),
    (if $p.audience | set then $p.audience
     elif $provider == "aws" then (if $p.usePodIdentity == "true" then "pods.eks.amazonaws.com" else "sts.amazonaws.com" end)
     elif $provider == "azure" then ($p.clientID | given | "api://AzureADTokenExchange")
     elif $provider == "conjur" or $provider == "infisical" then $provider
     else empty end | audience_findings(.; $v)),
    (select($provider == "gcp" and ([$v.tokenRequests[].audience // "" | select(endswith(".svc.id.goog"))] | length == 0))
     | warns("logs in with a token for the audience PROJECT.svc.id.goog where it uses workload identity, and tokenRequests lists none";
         "add {audience: PROJECT.svc.id.goog} to tokenRequests"));

def class_findings($v; $plugins; $readers):
  .metadata.namespace as $ns
  | ((.spec.secretObjects // [])[] | .secretName as $secret
     | ([$readers[] | select(.ns == $ns and .secret == $secret) | .by] | unique) as $by
     | "secretObjects makes the Secret \($secret), "
       + (if $by == [] then "of which no reader was found here" else "which \($by | join(", ")) reads" end)
     | . as $made
     | if $v.syncSecret.enabled and
          ((($v.syncSecret.namespaces // []) | any(. == "*" or . == $ns)) or (($v.syncSecret.secrets[$ns] // []) | any(. == $secret)))
       then warns($made + "; Mayfly writes it, but takes over none that the old driver made";
              "delete the Secret once the pods of this class have moved: Mayfly makes it again (docs/migrate.md, Secrets)")
       else blocks($made + "; the driver may not write it by your values";
              (if $by == [] then "if nothing else reads it, such as an operator, take it out of secretObjects; else " else "" end)
                + "set syncSecret.enabled, and list \($secret) in syncSecret.secrets.\($ns)") end),
    (if .spec.provider == "vault" or .spec.provider == "openbao" then vault_findings($v)
     elif .spec.provider == "akeyless" then akeyless_findings($v)
     else plugin_findings($v; $plugins) end);

# Objects with a pod template or that are pods, each once: no pod or job that another of these made.
def podspec: if .kind == "Pod" then .spec elif .kind == "CronJob" then .spec.jobTemplate.spec.template.spec else .spec.template.spec end;
def workloads:
  .[] | select(.kind | IN("Pod", "Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "Job", "CronJob"))
  | select([.metadata.ownerReferences[]? | select(.controller) | .kind]
      | any(IN("Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "Job", "CronJob")) | not)
  | select((.kind == "Pod" and (.status.phase | IN("Succeeded", "Failed"))) or (.kind == "ReplicaSet" and .spec.replicas == 0) | not)
  | {ns: .metadata.namespace, name: "\(.kind)/\(.metadata.name)", spec: podspec, labels: (.metadata.labels // {}), kind};

def secrets: # that a pod's spec reads, with how
  (((.containers // []) + (.initContainers // []))[]
   | ((.env // [])[].valueFrom.secretKeyRef.name, (.envFrom // [])[].secretRef.name) | {secret: ., how: "env"}),
  ((.volumes // [])[] | (.secret.secretName, (.projected.sources // [])[].secret.name) | {secret: ., how: "volume"}),
  ((.volumes // [])[].csi.nodePublishSecretRef.name | {secret: ., how: "nodePublishSecretRef"}),
  ((.imagePullSecrets // [])[].name | {secret: ., how: "imagePullSecrets"})
  | select(.secret != null);

def readers:
  (workloads | . as $w | .spec | secrets | {ns: $w.ns, secret, by: "\($w.name) (\(.how))"}),
  (.[] | select(.kind == "Ingress") | {ns: .metadata.namespace, secret: (.spec.tls // [])[].secretName, by: "Ingress/\(.metadata.name) (tls)"}),
  (.[] | select(.kind == "ServiceAccount")
   | {ns: .metadata.namespace, secret: (.imagePullSecrets // [])[].name, by: "ServiceAccount/\(.metadata.name) (imagePullSecrets)"})
  | select(.secret != null);

# Of a workload that mounts volumes of the driver. $classes are those of its namespace, judged.
def workload_findings($driver; $classes):
  ((.spec.nodeSelector // {})["kubernetes.io/os"] | select(. == "windows")
   | blocks("runs on Windows nodes, where there is no Mayfly"; "leave it on the old driver's name")),
  ((.spec.volumes // [])[] | select(.csi.driver == $driver) | .name as $volume | (.csi.volumeAttributes // {}) as $attributes
   | $attributes.secretProviderClass as $name | first($classes[] | select(.name == $name), null) as $class
   | (select($class == null)
      | warns("volume \($volume) names the SecretProviderClass \($name), which is not in the namespace"; "make it before the next pod starts")),
     (select($class.level == 2)
      | blocks("volume \($volume) mounts SecretProviderClass/\($name), which blocks"; "see there")),
     (select(.csi.readOnly != true)
      | blocks("volume \($volume) has no readOnly: true"; "set it")),
     ($attributes | to_entries[] | select(.key != "secretProviderClass" and (.key | startswith("csi.storage.k8s.io/") | not))
      | .key as $key | select(.value != $class.parameters[$key])
      | blocks("volume \($volume) overrides the parameter \($key) of its class by volumeAttributes, which Mayfly does not read";
          "mount a class of its own that has this value")));

def shown: if .name != null then "  \(["moves ", "warns ", "blocks"][.level]) \(.name)" else empty end,
  (.findings[] | "         - \(.what)", "           way out: \(.out)");

. as $all | (defaults * ($values[0] | renamed)) as $v
| ([$v.linux.providersDir] + $v.linux.additionalProvidersDirs | map(sub("/+$"; ""))) as $sockets
| def directories: [(.spec.volumes // [])[].hostPath.path | select(. != null) | sub("/+$"; "")];
  def isdriver: directories | any(test("/plugins_registry$"));
  def hostports: .hostNetwork as $host | [(.containers // [])[] | (.ports // [])[] | .hostPort // if $host then .containerPort else empty end];
  [$all | workloads] as $workloads | [$all | readers] as $readers
| [$workloads[] | select(.kind == "DaemonSet" and .labels["app.kubernetes.io/name"] != "mayfly")] as $sets
| [$sets[] | select(isdriver | not) | select(directories | any(test("secrets-store-csi-providers$") or IN($sockets[])))] as $providers
| [$providers[] | select(.name | test("(^DaemonSet/|-)(vault|openbao|akeyless)(-|$)") | not)] as $plugins
| [$all[] | select(.kind == "SecretProviderClass")
   | {ns: .metadata.namespace, name: .metadata.name, provider: .spec.provider, parameters: (.spec.parameters // {}),
      findings: [class_findings($v; $plugins; $readers)]} | .level = (.findings | level)] as $classes
| [$workloads[] | select([(.spec.volumes // [])[].csi.driver] | index([$driver]) != null) | . as $w
   | {ns, name, findings: [workload_findings($driver; [$classes[] | select(.ns == $w.ns)])]} | .level = (.findings | level)] as $mounting
| [$all[] | select(.kind == "CSIDriver" and .metadata.name == $driver) | .spec.tokenRequests // [] | .[].audience // ""] as $now
| ([$classes[].findings[].audience | select(. != null)] | unique) as $missing
| [
    ($sets[] | . as $set | (.spec | hostports) as $ports
     | ([{port: ($v.metrics.address | sub("^.*:"; "") | tonumber? // 0), value: "metrics.address"}, {port: $v.health.port, value: "health.port"}][]
        | .port as $port | select($ports | index([$port]) != null)) as $clash
     | (if $v.linux.hostNetwork
        then blocks("has port \($clash.port) of the nodes, which Mayfly needs with linux.hostNetwork"; "set \($clash.value) to another port")
        else warns("has port \($clash.port) of the nodes, which Mayfly needs if you set linux.hostNetwork"; "set \($clash.value) to another port then") end)
       + {of: "\($set.ns)/\($set.name)"}),
    ($providers[] | . as $set
     | (if ([$plugins[].name] | index($set.name)) == null
        then warns("is the provider of a store that is built into Mayfly"; "keep it as long as the old driver serves a pod, then uninstall it")
        elif directories | any(IN($sockets[])) | not
        then blocks("is a provider plugin whose sockets are in \([directories[] | select(test("secrets-store-csi-providers"))] | quoted), where Mayfly does not look"; "add the directory to linux.additionalProvidersDirs")
        else warns("is a provider plugin: both drivers can call it"; "keep one: do not uninstall it with the old driver, nor install it twice") end)
       + {of: "\($set.ns)/\($set.name)"}),
    ($now - [$v.tokenRequests[].audience // ""] - $missing | select(length > 0)
     | warns("the CSIDriver \($driver) now lists the audiences \(quoted), which tokenRequests does not"; "add those that your provider plugins use")
       + {of: "CSIDriver/\($driver)"})
  ] as $cluster
| [$cluster | group_by(.of)[] | {name: .[0].of, findings: ., level: level}] as $cluster
| [
    ($missing | select(length > 0) | "tokenRequests: [" + ([$v.tokenRequests[].audience // ""] + . | unique | map("{audience: \(tojson)}") | join(", ")) + "]"),
    ([$classes[] | select(.provider | IN("vault", "openbao", "akeyless") | not)] | select(length > 0 and ($v.providerPlugins.enabled | not)) | "providerPlugins: {enabled: true}"),
    ("vault", "akeyless" | . as $store | if . == "vault" then "^(vault|bao|openbao)(Fallback)?Address$" else "^akeyless(K8s|Fallback)?GatewayURL$" end | . as $key
     | [$classes[] | select(if $store == "vault" then .provider | IN("vault", "openbao") else .provider == "akeyless" end)
        | .parameters | to_entries[] | select(.key | test($key)) | .value | server | select(. != null and (.host | local | not))
        | "\(.scheme)://\(.host):\(.port)"] | unique | select(length > 0 and ($v[$store].allowedAddresses | length == 0))
     | "\($store): {allowedAddresses: [\(quoted)]}  # what classes name now; \"*\" allows any")
  ] as $wanted
| ([$classes[] | .name = "SecretProviderClass/\(.name)"] + $mounting) as $objects
| ($objects + $cluster | map(.level)) as $levels
| {
    blocked: ($levels | any(. == 2)),
    lines: [
      (select($cluster != []) | "cluster", ($cluster[] | shown), ""),
      ($objects | group_by(.ns)[] | "namespace \(.[0].ns)", (sort_by(.name)[] | shown), ""),
      (select($wanted != []) | "values of Mayfly's chart that fit", ($wanted[] | "  " + .), ""),
      "\($levels | map(select(. == 0)) | length) move as they are, \($levels | map(select(. == 1)) | length) warn, \($levels | map(select(. == 2)) | length) block"
    ]
  }
JQ

jq -n '[inputs[]]' "$work/lists.json" >"$work/items.json" || fail "collecting the lists failed"
jq --arg driver "$driver" --slurpfile values "$work/values.json" --from-file "$work/program.jq" \
  "$work/items.json" >"$work/report.json" || fail "judging the lists failed"
jq -r '.lines[]' "$work/report.json"
jq -e '.blocked | not' "$work/report.json" >/dev/null || exit 1
