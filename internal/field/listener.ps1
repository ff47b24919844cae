# Serves two ports of TCP and two of UDP on Windows' 127.0.0.1, which Windows chooses,
# and prints them: "ready PID TCP UDP TCP UDP". It answers each request with "Windows",
# and ends after $seconds, or when it is sent "bye".
$ErrorActionPreference = 'Stop'; $ProgressPreference = 'SilentlyContinue'
$answer = [Text.Encoding]::ASCII.GetBytes("Windows`n")
$tcp = @(); $udp = @()
foreach ($i in 0, 1) {
  $listener = New-Object Net.Sockets.TcpListener([Net.IPAddress]::Loopback, 0)
  $listener.Start()
  $tcp += $listener
  $client = New-Object Net.Sockets.UdpClient((New-Object Net.IPEndPoint([Net.IPAddress]::Loopback, 0)))
  $udp += $client
}
$ports = @()
foreach ($i in 0, 1) {
  $ports += $tcp[$i].LocalEndpoint.Port
  $ports += $udp[$i].Client.LocalEndPoint.Port
}
[Console]::Out.WriteLine("ready $PID $($ports -join ' ')")
$buffer = New-Object byte[] 4096
$clock = [Diagnostics.Stopwatch]::StartNew()
$bye = $false
while (-not $bye -and $clock.Elapsed.TotalSeconds -lt $seconds) {
  foreach ($listener in $tcp) {
    if (-not $listener.Pending()) { continue }
    $connection = $listener.AcceptTcpClient()
    try {
      $connection.ReceiveTimeout = 1000
      $stream = $connection.GetStream()
      $n = $stream.Read($buffer, 0, $buffer.Length)
      if ([Text.Encoding]::ASCII.GetString($buffer, 0, $n).StartsWith('bye')) { $bye = $true }
      $stream.Write($answer, 0, $answer.Length)
    } catch { } finally { $connection.Close() }
  }
  foreach ($client in $udp) {
    try {
      if ($client.Available -gt 0) {
        $from = New-Object Net.IPEndPoint([Net.IPAddress]::Any, 0)
        [void]$client.Receive([ref]$from)
        [void]$client.Send($answer, $answer.Length - 1, $from)
      }
    } catch { }
  }
  Start-Sleep -Milliseconds 5
}
