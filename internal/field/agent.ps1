# $tasks are lines of: number, kind, address, port, milliseconds to wait, how often.
# One line is printed for each: number, outcome, detail, microseconds (of several
# requests the median). Nothing in these lines depends on the language of Windows.
$ErrorActionPreference = 'Stop'; $ProgressPreference = 'SilentlyContinue'
$question = [Text.Encoding]::ASCII.GetBytes("who are you`n")
foreach ($task in $tasks) {
  $id, $kind, $address, $port, $wait, $count = $task -split ' '
  $clock = [Diagnostics.Stopwatch]::StartNew()
  $outcome = 'failed'; $detail = '-'; $median = [int64]0; $times = @()
  try {
    if ($kind -eq 'udp') {
      $client = New-Object Net.Sockets.UdpClient
      try {
        $client.Client.ReceiveTimeout = [int]$wait
        $client.Connect($address, [int]$port)
        for ($i = 0; $i -lt [int]$count; $i++) {
          $from = New-Object Net.IPEndPoint([Net.IPAddress]::Any, 0)
          $clock.Restart()
          [void]$client.Send($question, $question.Length)
          $answer = $client.Receive([ref]$from)
          $times += [int64]($clock.Elapsed.TotalMilliseconds * 1000)
        }
        $sorted = @($times | Sort-Object)
        $median = $sorted[[int][Math]::Floor($sorted.Count / 2)]
        $outcome = 'answers'; $detail = [Text.Encoding]::ASCII.GetString($answer) -replace '\s', ''
      } finally { $client.Close() }
    } elseif ($kind -eq 'bind-tcp') {
      $listener = New-Object Net.Sockets.TcpListener([Net.IPAddress]::Parse($address), [int]$port)
      $listener.ExclusiveAddressUse = $true
      $listener.Start()
      $listener.Stop()
      $outcome = 'bound'
    } elseif ($kind -eq 'bind-udp') {
      $client = New-Object Net.Sockets.UdpClient
      try {
        $client.ExclusiveAddressUse = $true
        $client.Client.Bind((New-Object Net.IPEndPoint([Net.IPAddress]::Parse($address), [int]$port)))
        $outcome = 'bound'
      } finally { $client.Close() }
    }
  } catch {
    $cause = $_.Exception.GetBaseException()
    if ($cause -is [Net.Sockets.SocketException]) { $outcome = 'error'; $detail = $cause.SocketErrorCode }
    else { $detail = $cause.GetType().Name }
  }
  if ($median -eq 0) { $median = [int64]($clock.Elapsed.TotalMilliseconds * 1000) }
  [Console]::Out.WriteLine("$id $outcome $detail $median")
}
